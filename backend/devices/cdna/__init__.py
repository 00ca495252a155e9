"""The device `cdna`: AITER's real machine code, run on the CPU with every global access checked.

Stage 1 is the shipped code object. The reduction is compiled on the user's machine from C++ and has no code object to run, so
its accesses are the model's, applied to what the machine code wrote; every result says so.
"""

from __future__ import annotations

from functools import lru_cache

from backend.aiter.codefiles import CodeSource, installed_wheel, open_code
from backend.call import Call
from backend.case import Arch
from backend.cdna.bitmap import marked_runs
from backend.cdna.code_object import load_code_object
from backend.cdna.machine import Launch as MachineLaunch
from backend.cdna.machine import Machine
from backend.cdna.memory import AddressSpace, Region
from backend.cdna.record import Record
from backend.cdna.result import BadAccess, Mode, Outcome, RunResult
from backend.devices import coverage, outputs, second_stage, tokens
from backend.devices.cdna import space as spaces
from backend.devices.cdna.hazards import hazards
from backend.devices.cdna.violations import footprint, violations
from backend.devices.cdna.why import explainer
from backend.devices.second_stage import SecondStageRun
from backend.errors import CannotRunError
from backend.observation import ByteRanges, DeviceEnd, EndKind, Footprint, Observation, Violation

SECOND_STAGE_NOTE = "second stage by model"


class CdnaDevice:
    """See the module. source: where code objects are read, None: the installed wheel. record: keep footprints.

    explained: violations say where their first bad address came from. hazards: LDS races and missing waits are looked for too
    (notes), and bytes that two workgroups write (violations of their own kind).
    """

    name = "cdna"

    def __init__(
        self, source: CodeSource | None = None, record: bool = False, explained: bool = True, hazards: bool = False
    ) -> None:
        self._source = source if source is not None else installed_wheel()
        self._record = record
        self._explained = explained
        self._hazards = hazards

    def observe(self, call: Call) -> Observation:
        """Runs the call's code object in slice mode.

        Raises CannotRunError where the source lacks the code object, UnmodelledError for machine code that has no model.
        """
        launch = call.launched
        machine = machine_of(self._source, launch.arch, launch.code_object, launch.symbol)
        space, kernarg = spaces.build(call)
        axis = None if launch.persistent else spaces.REQUEST_AXIS
        start = MachineLaunch(launch.grid, launch.block, kernarg, requester_axis=axis)
        limit = instruction_limit(call)
        record = Record(touched=True if self._record else _watched(call), overlaps=self._hazards)
        result = machine.run(start, space, Mode.SLICE, record=record, max_instructions=limit)
        explain = explainer(machine, start, space, launch.persistent, limit) if self._explained else _unexplained
        found = violations(call, result, explain)
        footprints: dict[str, Footprint] = {launch.code_object: footprint(result)} if self._record else {}
        merged = second_stage.run(call, self._record)
        found += merged.violations
        notes = (f"{result.executed} wave instructions of the address slice", SECOND_STAGE_NOTE)
        end = None
        if result.outcome is Outcome.LIMIT:
            end = DeviceEnd(EndKind.HANG, f"{launch.code_object} is not at its end after {result.executed} wave instructions")
        else:
            found += _left_undone(call, space, result, merged)
        return Observation(
            call,
            self.name,
            tuple(found),
            {**footprints, **merged.footprints},
            coverage.of_call(call) | {coverage.identifier(launch.code_object, *edge) for edge in result.edges.tolist()},
            schedule=str(result.schedule),
            notes=(*notes, *(hazards(machine, start, space, limit) if self._hazards else ())),
            end=end,
        )


def _watched(call: Call) -> frozenset[str]:
    """Regions of which every touched byte is kept: the pool, where a kernel may take its tokens for others than they are."""
    return frozenset({"kv_buffer"}) if tokens.may_differ(call) else frozenset()


def _left_undone(call: Call, space: AddressSpace, result: RunResult, merged: SecondStageRun) -> list[Violation]:
    """Rows of o and of the merge's input that nobody writes, tokens of the pool that nobody reads."""
    written = _written(space["o"])
    found = [outputs.unwritten(call, written[:, 0], written[:, 1], merged.rows)]
    if len(merged.partials):
        found.append(outputs.unwritten_partials(call, _written(space["logits"]), merged.partials))
    if tokens.may_differ(call):
        found.append(tokens.unread(call, result.log.touched_read["kv_buffer"]))
    return [violation for violation in found if violation is not None]


def _written(region: Region) -> ByteRanges:
    assert region.written is not None
    return marked_runs(region.written, region.size)


def _unexplained(access: BadAccess) -> str:
    return ""


@lru_cache(maxsize=64)
def machine_of(source: CodeSource, arch: Arch, code_object: str, symbol: str) -> Machine:
    """The machine of one kernel, compiled once.

    Raises CannotRunError where the source lacks the code object, or the code object is none, is for another architecture or
    has no such kernel. A code object that holds one kernel runs whatever its name: it was named by its blob id.
    """
    loaded = load_code_object(open_code(source, arch, code_object))
    if loaded.arch != arch:
        raise CannotRunError(f"code object {code_object} of {source.label}: given one for {loaded.arch}; needed: {arch}")
    if len(loaded.kernels) == 1:
        return Machine(loaded.kernels[0])
    names = [kernel.name for kernel in loaded.kernels]
    if symbol not in names:
        raise CannotRunError(f"code object {code_object} of {source.label}: given kernels {names}; needed: {symbol}")
    return Machine(loaded.kernel(symbol))


def instruction_limit(call: Call) -> int:
    """Wave instructions after which a launch is taken for a hang: some 20 times what any kernel tried takes in slice mode."""
    launch = call.launched
    workgroups = launch.grid[0] * launch.grid[1] * launch.grid[2]
    if call.plan is not None and launch.persistent:
        items = call.plan.work_items
        tokens, tiles = int((items[:, 5] - items[:, 4]).clip(min=0).sum()), len(items)
    else:
        tokens, tiles = len(call.decode.kv_indices) * launch.grid[0], workgroups
    return 1_000_000 + 2_000 * workgroups + 40_000 * tiles + 400 * tokens
