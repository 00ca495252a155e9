"""One session of a campaign, from its configuration to the end of its last worker: folder, lock, store, Ray, engine, signals.

A session begins a campaign or goes on with one; after a SIGKILL at any moment the next session goes on with what was recorded.
A night is a campaign in a folder of its own that is compared with the night before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.devices.kinds import require_device
from backend.errors import CannotRunError, UsageError, of_the_disk
from backend.findings import FindingKind
from backend.git import path_and_revision
from backend.serving.backends import BACKENDS
from backend.words import counted
from fuzz.campaign.case_process import read_slot
from fuzz.campaign.collaborators import Log, NoLog
from fuzz.campaign.config import IDENTITY, CampaignConfig
from fuzz.campaign.engine import RUNNING, Engine
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.pool import Pool
from fuzz.campaign.progress import Live
from fuzz.campaign.read_summary import compare, load_summary, write_comparison
from fuzz.campaign.rule import require_rule, rule_content
from fuzz.campaign.soundness import require_plain
from fuzz.campaign.store import FILE_NAME, FINDINGS, LOCK_NAME, Lock, Store, environment
from fuzz.campaign.summary import CampaignSummary, LossKind, TriagedFinding
from fuzz.campaign.verifying import NoVerifier, Verifier
from fuzz.own_process import Interruption
from fuzz.provenance import Provenance, own_fingerprint
from reprod.folder import prepare_folder
from reprod.text import listed

STOPPING = "\nstopping when this case is done; once more to stop now"
"""Said to whoever presses Ctrl-C."""

if TYPE_CHECKING:
    from reprod.known import KnownFaults


@dataclass(frozen=True, slots=True)
class Manner:
    """In what the commands differ whose search is a campaign.

    pool: where its workers are. log: is told of everything that is recorded. findings: folder of the findings' folders, below
    the campaign's. command: what the texts of a finding say found it, "" for the flags that matter most.
    """

    pool: Callable[[CampaignConfig], Pool]
    log: Callable[[CampaignConfig, Provenance], Log] = lambda config, made_by: NoLog()
    findings: str = FINDINGS
    command: str = ""


def on_ray(config: CampaignConfig) -> Pool:
    """The cluster of a configuration: an existing one, or one that is started here."""
    from fuzz.campaign.cluster import Cluster, Demand

    return Cluster(config.address, Demand(config.resource, config.workers_sharing, config.ranks))


CAMPAIGN = Manner(on_ray)

OWN_NAMES = (RUNNING, FINDINGS, LOCK_NAME, *(FILE_NAME + suffix for suffix in ("", "-wal", "-shm", "-journal")))
"""What a campaign writes to in its folder."""


def begin(config: CampaignConfig, manner: Manner = CAMPAIGN) -> CampaignSummary:
    """Runs a new campaign; raises UsageError where its folder holds anything, or what it is compared with is another's."""
    config = absolute(config)
    config = config.replace(chunk_cases=config.cases_a_chunk)  # kept where it goes on with other limits
    # Whatever is wrong with what was given is said before anything is written or started.
    require_device(config.device, config.numbers)
    require_rule(config.backend)
    space = config.space()
    earlier = None if config.compare is None else _comparable(config)
    folder = Path(config.out)
    require_unused(folder)
    store_file = folder / FILE_NAME
    made_by = _provenance(config, space.releases)
    known = _triage(config)
    require_expected(config.expect, known.entries)
    with full_disk_is_one_line(folder), manner.pool(config) as pool:
        workers = pool.workers(config.workers)
        _make_folder(folder)
        lock = Lock(folder)
        store = Store.create(store_file, uuid.uuid4().hex, config, space, made_by, environment(pool.nodes, pool.resources))
        for unclear in to_retry(config, earlier):
            store.carry_over(unclear)
        _Session(config, manner, store, pool, workers, known, made_by).run()
        lock.release()
    return summarised(config)


LEFT_BY_A_KILL = (RUNNING, LOCK_NAME, Path(FILE_NAME).with_suffix(".unfinished").name)
"""What a campaign leaves that was killed before it had a store."""


def require_unused(folder: Path) -> None:
    """Raises UsageError where a folder for results holds something: findings would stand beside others'."""
    try:
        held = sorted({path.name for path in folder.iterdir()} - {*LEFT_BY_A_KILL})
    except OSError:  # it is not there, or what is wrong with it is said where it is made
        return
    if FILE_NAME in held:
        raise UsageError(f"{folder}: holds a campaign already; go on with `{resume_command(folder)}`, or give another --out")
    if held:
        raise UsageError.not_allowed("--out", str(folder), f"a folder that is new or empty: this one holds {held[0]}")


def _comparable(config: CampaignConfig) -> CampaignSummary:
    """The campaign that this one is to be compared with; raises UsageError for one of other backends."""
    assert config.compare is not None
    earlier = load_summary(Path(config.compare))
    theirs = sorted({member.config.backend for member in earlier.members})
    if config.backend not in theirs:
        raise UsageError.not_allowed(
            "--compare", config.compare, f"a campaign of {config.backend}; this is one of {listed(theirs)}"
        )
    return earlier


def require_expected(expect: Sequence[str], entries: Sequence[str]) -> None:
    """Raises UsageError for what is neither an entry of the corpus nor a signature: nothing would ever be expected by it."""
    for each in expect:
        if each.partition("/")[0] not in {*FindingKind} and each not in entries:
            raise UsageError.not_allowed("expect", each, f"a signature (kind/...), or one of {', '.join(entries)}")


def to_retry(config: CampaignConfig, earlier: CampaignSummary | None) -> list[TriagedFinding]:
    """Deaths that the earlier campaign met itself and could not reproduce: each is tried again once, on the same device."""
    if earlier is None or earlier.members[0].config.device != config.device:
        return []
    return [each for each in earlier.not_reproduced if each.count]


def resume(folder: Path, changes: Mapping[str, Any]) -> CampaignSummary:
    """Goes on with the campaign of a folder. changes: fields of its configuration to change; those of IDENTITY cannot be."""
    folder = folder.absolute()  # workers run elsewhere and are told paths in it
    path = folder / FILE_NAME
    if not path.is_file():
        raise UsageError(f"{folder}: no campaign there to go on with; leave out --resume to begin one")
    require_plain(folder, OWN_NAMES)
    stored, made_before = stored_campaign(path)
    config = changed(stored, changes, folder)
    require_rule(config.backend, named="backend" in changes)  # a store may be anybody's
    lock = Lock(folder)
    made_by = _provenance(config, config.space().releases)
    require_same_content(made_before, made_by)
    known = _triage(config)
    require_expected(config.expect, known.entries)
    with full_disk_is_one_line(folder), on_ray(config) as pool:
        store = Store.open(path)
        store.configure(config)
        _Session(config, CAMPAIGN, store, pool, pool.workers(config.workers), known, made_by).run()
    lock.release()
    return summarised(config)


def summarised(config: CampaignConfig) -> CampaignSummary:
    """The summary of a campaign that has ended, compared with an earlier one where the configuration names it."""
    folder = Path(config.out)
    if config.compare is not None:
        write_comparison(folder, compare(load_summary(folder), load_summary(Path(config.compare)), config.compare))
    return load_summary(folder)


def stored_campaign(path: Path) -> tuple[CampaignConfig, Provenance]:
    """The configuration of the one campaign of a sound store, and what it was begun with."""
    members = load_summary(path).members
    if len(members) != 1:
        raise UsageError(f"{path}: was merged from {len(members)} campaigns; give one of these")
    return members[0].config, members[0].provenance


def require_same_content(before: Provenance, now: Provenance) -> None:
    """Raises UsageError where a rule or a checkout that a campaign was begun with holds something else now."""
    for name in sorted(set(before.contents) | set(now.contents)):
        if before.contents.get(name) != now.contents.get(name):
            raise UsageError(
                f"--resume: {name} is not what this campaign was begun with, which decides what comes of its cases; put it "
                "back, or begin another campaign with another --out"
            )


def changed(config: CampaignConfig, changes: Mapping[str, Any], folder: Path) -> CampaignConfig:
    """A stored configuration with changes; raises UsageError where they would make it another campaign."""
    new = absolute(config.replace(**changes, out=str(folder)))
    for name in IDENTITY:
        if getattr(new, name) != getattr(config, name):
            raise UsageError(
                f"--resume: given {_flagged(new, name)}; this campaign has {_flagged(config, name)}, which decides its cases; "
                "leave it out, or begin another campaign with another --out"
            )
    return new


def _flagged(config: CampaignConfig, name: str) -> str:
    """A field as a person gives it: `--heads 16,32`, `no --heads` where it is not given."""
    value, flag = getattr(config, name), "--" + name.replace("_", "-")
    if value is None or value == ():
        return f"no {flag}"
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return f"{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def absolute(config: CampaignConfig) -> CampaignConfig:
    """The same with full paths: workers run elsewhere, and a campaign may go on from another folder."""
    changes: dict[str, Any] = {"out": str(Path(config.out).absolute())}
    for name in ("corpus", "compare"):
        value = getattr(config, name)
        changes[name] = None if value is None else str(Path(value).absolute())
    file, colon, function = config.backend.partition(":")
    if file.endswith(".py"):
        changes["backend"] = f"{Path(file).absolute()}{colon}{function}"
    if config.aiter is not None:
        checkout, revision = path_and_revision(config.aiter)
        changes["aiter"] = f"{Path(checkout).absolute()}{'@' if revision else ''}{revision}"
    return config.replace(**changes)


@dataclass(frozen=True, slots=True)
class _Session:
    """From workers to the end; everything found so far is written, whatever ends it."""

    config: CampaignConfig
    manner: Manner
    store: Store
    pool: Pool
    workers: int
    known: KnownFaults
    made_by: Provenance

    def run(self) -> None:
        reason = "failed"
        store, config = self.store, self.config
        log = self.manner.log(config, self.made_by)
        verifying = Verifier() if config.verify else contextlib.nullcontext(NoVerifier())
        with (
            Interruption(STOPPING) as interruption,
            Live() as live,
            verifying as verifier,
        ):
            engine = Engine(
                *(config, self._setup(), store, self.pool, live, self.known, verifier, lambda: interruption.wanted, log),
                *(self.manner.findings, self.manner.command),
            )
            try:
                store.begin_session(self.workers, f"{self.pool.name}, {counted(self.pool.nodes, 'node')}", own_fingerprint())
                self._announce(live)
                _name_unfinished(store, engine, live)
                reason = engine.run(self.workers)
                live.finish(engine.status(reason))
                store.end_session(reason)
                store.close()
            except BaseException as error:
                store.fail(error, reason)
                raise
        if reason.startswith("no worker left"):
            folder = store.path.parent
            raise CannotRunError(
                f"{reason}; what was found so far is in {folder}; {without_workers(reason, config.backend, folder)}"
            )
        shutil.rmtree(store.path.parent / RUNNING, ignore_errors=True)  # nothing runs, so no slot names a case

    def _setup(self) -> WorkerSetup:
        config = self.config
        return WorkerSetup(
            space=config.space(),
            seed=config.seed,
            count=config.cases_a_chunk,
            guided=config.guided,
            device=config.device,
            aiter=config.aiter,
            seconds_a_case=config.seconds_a_case,
            memory=config.memory_a_worker,
            repeats=config.repeats,
            shrink_tries=config.shrink_tries,
            made_by=self.made_by,
            numbers=config.numbers,
            ranks=config.ranks,
        )

    def _announce(self, live: Live) -> None:
        config, bounds = self.config, self.config.space()
        types = ", ".join(f"{arch} q {q} KV {kv}" for arch, q, kv in bounds.tensor_types)
        limits = [f"{counted(config.cases, 'case')}"] if config.cases is not None else []
        limits += [f"{config.time_limit:g} s"] if config.time_limit is not None else []
        aiter = config.revision or ", ".join(bounds.releases)
        live.say(
            f"{config.backend}, AITER {aiter}, heads {', '.join(map(str, bounds.heads))}, {types}; "
            f"device {config.device}, seed {config.seed}, {'guided' if config.guided else 'unguided'}, {' or '.join(limits)}; "
            f"{counted(self.workers, 'worker')} on {self.pool.name}; sources {self.made_by.rules}; "
            f"{config.out}"
        )
        for warning in self.made_by.warnings:
            live.say(f"note: {warning}")


@contextlib.contextmanager
def full_disk_is_one_line(folder: Path) -> Iterator[None]:
    """Raises CannotRunError in place of what a full, failing or read-only disk makes raise."""
    try:
        yield
    except (sqlite3.Error, OSError, UsageError) as error:
        if not of_the_disk(error):
            raise
        raise CannotRunError(
            f"{folder}: cannot be written to ({error}); what was announced is kept: make room, and go on with "
            f"`{resume_command(folder)}`"
        ) from error


def resume_command(folder: Path | str, backend: str = "") -> str:
    """What goes on with the store of a folder, a campaign's or a run's. backend: a rule of one's own is named anew."""
    rule = [] if backend in {"", *BACKENDS} else ["--backend", backend]
    return shlex.join(["aiterfuzz", "campaign", "--resume", *rule, "--out", str(folder)])


def stopped(summary: CampaignSummary, out: Path | str) -> list[str]:
    """What a person who stopped a campaign is told to go on with; nothing where it ended by itself."""
    (member,) = summary.members
    if member.sessions[-1].reason != "interrupted":
        return []
    return [f"go on with: {resume_command(out, member.config.backend)}"]


def without_workers(reason: str, backend: str, folder: Path) -> str:
    """Where no worker is left. A rule that broke would break again, and one that was mended is another one."""
    if backend not in BACKENDS and reason.startswith("no worker left: rule "):
        return "mend the rule and begin anew with another --out"
    return f"go on with `{resume_command(folder, backend)}`"


def _name_unfinished(store: Store, engine: Engine, live: Live) -> None:
    """The cases that ran when the last session was killed, from the slots that its workers left; they are run again."""
    folder = store.path.parent / RUNNING
    folder.mkdir(exist_ok=True)
    engine.prepare()
    for slot in sorted(folder.iterdir()):
        if slot.is_symlink() or not slot.is_file():
            raise UsageError(f"{slot}: no slot of a worker; take it away")
        at = read_slot(slot)
        if at.of_a_chunk and at.chunk not in engine.done:
            case = engine.case_at(at.chunk, at.position)
            store.loss(LossKind.DRIVER, slot.name, "running when the campaign was killed", at.chunk, at.position, case)
            live.say(f"{slot.name} was at case {at.chunk}/{at.position} when the campaign was killed; its chunk is run again")
        slot.unlink()


def _make_folder(folder: Path) -> None:
    prepare_folder(folder)
    (folder / RUNNING).mkdir(exist_ok=True)


def _triage(config: CampaignConfig) -> KnownFaults:
    from reprod.corpus import shipped_corpus
    from reprod.known import KnownFaults

    return KnownFaults(shipped_corpus() if config.corpus is None else Path(config.corpus))


def _provenance(config: CampaignConfig, releases: tuple[str, ...]) -> Provenance:
    from backend.aiter.codefiles import open_source
    from fuzz.provenance import contents_of, provenance

    source = None if config.aiter is None else open_source(config.aiter)
    made_by = provenance(config.device, releases, source)
    return dataclasses.replace(made_by, contents=contents_of(source) | rule_content(config.backend))


def night(config: CampaignConfig, seeded: bool) -> tuple[Path, CampaignSummary]:
    """Runs one night below config.out; its folder and summary, comparison included. seeded: whether to keep the seed."""
    now = time.localtime()
    root = Path(config.out)
    folder = root / time.strftime("%Y-%m-%d-%H%M%S", now)
    changes = {"out": str(folder)} | ({} if seeded else {"seed": int(time.strftime("%Y%m%d", now))})
    before = config.compare or last_night(root, absolute(config).backend)
    return folder, begin(config.replace(**changes, compare=None if before is None else str(before)))


def last_night(root: Path, backend: str) -> Path | None:
    """Folder of the newest night of a backend that ran to its end; None where there is none."""
    nights = sorted((path.parent for path in root.glob(f"*/{FILE_NAME}")), reverse=True) if root.is_dir() else []
    for folder in nights:
        try:
            night = load_summary(folder)
            if night.complete and backend in {member.config.backend for member in night.members}:
                return folder
        except UsageError:
            continue  # of another version of the store: it cannot be read, so it cannot be compared with
    return None
