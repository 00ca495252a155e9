"""One session of a campaign, from its configuration to the end of its last worker: folder, lock, store, Ray, engine, signals.

A session begins a campaign or goes on with one; after a SIGKILL at any moment the next session goes on with what was recorded.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.devices.registry import OPENERS
from backend.errors import CannotRunError, UsageError
from backend.serving.registry import named_policy, policy
from fuzz.campaign.cluster import Cluster, Demand
from fuzz.campaign.config import IDENTITY, CampaignConfig
from fuzz.campaign.engine import RUNNING, Engine
from fuzz.campaign.live import Live
from fuzz.campaign.order import Order
from fuzz.campaign.reading import compare, write_comparison
from fuzz.campaign.slot import read_slot
from fuzz.campaign.store import FILE_NAME, Lock, Store, cannot_be_written, connect, environment
from fuzz.campaign.summary import CampaignSummary, LossKind, TriagedFinding, load_summary
from fuzz.campaign.triage import KnownFaults, default_corpus
from fuzz.campaign.verifying import NoVerifier, Verifier
from fuzz.interruption import Interruption
from fuzz.provenance import Provenance, own_fingerprint


def begin(config: CampaignConfig) -> CampaignSummary:
    """Runs a new campaign; raises UsageError where its folder holds one already."""
    config = absolute(config)
    # Whatever is wrong with what was given is said before anything is written or started.
    named_policy(config.backend)
    if config.device not in OPENERS:
        raise UsageError.not_allowed("device", config.device, ", ".join(OPENERS))
    space = config.space()
    earlier = None if config.compare is None else load_summary(Path(config.compare))
    folder = Path(config.out)
    if (folder / FILE_NAME).exists():
        raise UsageError(f"{folder}: holds a campaign already; go on with --resume, or give another --out")
    made_by = _provenance(config, space.releases)
    known = KnownFaults(_corpus(config))
    with _full_disk_is_one_line(folder), Cluster(config.address, demand(config)) as cluster:
        workers = cluster.workers(config.workers)
        _make_folder(folder)
        lock = Lock(folder)
        machine = environment(cluster.nodes, cluster.resources)
        store = Store.create(folder / FILE_NAME, uuid.uuid4().hex, config, space, made_by, machine)
        for unclear in to_retry(config, earlier):
            store.carry_over(unclear)
        _run(config, store, cluster, workers, known, made_by)
        lock.release()
    return summarised(config)


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
    config = changed(stored_config(path), changes, folder)
    if "backend" in changes:
        named_policy(config.backend)
    policy(config.backend)  # a store may be anybody's: a rule is run only where it was named again
    lock = Lock(folder)
    made_by = _provenance(config, config.space().releases)
    known = KnownFaults(_corpus(config))
    with _full_disk_is_one_line(folder), Cluster(config.address, demand(config)) as cluster:
        store = Store.open(path)
        store.configure(config)
        _run(config, store, cluster, cluster.workers(config.workers), known, made_by)
    lock.release()
    return summarised(config)


def summarised(config: CampaignConfig) -> CampaignSummary:
    """The summary of a campaign that has ended, compared with an earlier one where the configuration names it."""
    folder = Path(config.out)
    if config.compare is not None:
        write_comparison(folder, compare(load_summary(folder), load_summary(Path(config.compare)), config.compare))
    return load_summary(folder)


def stored_config(path: Path) -> CampaignConfig:
    """The configuration of the one campaign of a store."""
    import json

    from backend.codec import from_plain

    connection = connect(path)
    try:
        rows = connection.execute("SELECT config FROM campaigns").fetchall()
    finally:
        connection.close()
    if len(rows) != 1:
        raise UsageError(f"{path}: was merged from {len(rows)} campaigns; give one of these")
    return from_plain(CampaignConfig, json.loads(rows[0][0]))


def changed(config: CampaignConfig, changes: Mapping[str, Any], folder: Path) -> CampaignConfig:
    """A stored configuration with changes; raises UsageError where they would make it another campaign."""
    new = absolute(config.replace(**changes, out=str(folder)))
    for name in IDENTITY:
        if getattr(new, name) != getattr(config, name):
            raise UsageError(
                f"--resume: given {name} {getattr(new, name)!r}; this campaign has {getattr(config, name)!r}, which decides "
                "its cases; leave it out, or begin another campaign with another --out"
            )
    return new


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
        checkout, at, revision = config.aiter.partition("@")
        changes["aiter"] = f"{Path(checkout).absolute()}{at}{revision}"
    return config.replace(**changes)


def _run(config: CampaignConfig, store: Store, cluster: Cluster, workers: int, known: KnownFaults, made_by: Provenance) -> None:
    """From workers to the end; everything found so far is written, whatever ends it."""
    order = _order(config, store, made_by)
    reason = "failed"
    verifying = Verifier() if config.verify else contextlib.nullcontext(NoVerifier())
    with Interruption() as interruption, Live() as live, verifying as verifier:
        engine = Engine(config, order, store, cluster, live, known, verifier, lambda: interruption.wanted)
        try:
            store.begin_session(workers, f"{cluster.name}, {cluster.nodes} nodes", own_fingerprint())
            _announce(config, live, made_by, workers, cluster)
            _name_unfinished(store, engine, live)
            reason = engine.run(workers)
            live.finish(engine.status(closing=reason))
            store.end_session(reason)
            store.close()
        except BaseException as error:
            store.fail(error, reason)
            raise
    if reason.startswith("no worker left"):
        raise CannotRunError(f"{reason}; what was found so far is in {store.path.parent}, go on with --resume")


@contextlib.contextmanager
def _full_disk_is_one_line(folder: Path) -> Iterator[None]:
    """Raises CannotRunError in place of what a full, failing or read-only disk makes raise."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if not cannot_be_written(error):
            raise
        raise CannotRunError(
            f"{folder}: cannot be written to ({error}); what was announced is kept: make room, and go on with --resume"
        ) from error


def demand(config: CampaignConfig) -> Demand:
    """What the workers of a campaign need of Ray."""
    return Demand(config.resource, config.workers_sharing, config.ranks)


def _order(config: CampaignConfig, store: Store, made_by: Provenance) -> Order:
    return Order(
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
        made_by=made_by,
        ranks=config.ranks,
    )


def _name_unfinished(store: Store, engine: Engine, live: Live) -> None:
    """The cases that ran when the last session was killed, from the slots that its workers left; they are run again."""
    folder = store.path.parent / RUNNING
    folder.mkdir(exist_ok=True)
    engine.prepare()
    for slot in sorted(folder.iterdir()):
        at = read_slot(slot)
        if at.running and at.chunk < 1 << 40 and at.chunk not in engine.done:
            case = engine.case_at(at.chunk, at.position)
            store.loss(LossKind.DRIVER, slot.name, "running when the campaign was killed", at.chunk, at.position, case)
            live.say(f"{slot.name} was at case {at.chunk}/{at.position} when the campaign was killed; its chunk is run again")
        slot.unlink()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUNNING).mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out: given {str(folder)!r}; it cannot be written to ({reason}); give another folder") from error


def _corpus(config: CampaignConfig) -> Path | None:
    return default_corpus() if config.corpus is None else Path(config.corpus)


def _provenance(config: CampaignConfig, releases: tuple[str, ...]) -> Provenance:
    from backend.aiter.codefiles import open_source
    from fuzz.provenance import provenance

    return provenance(config.device, releases, None if config.aiter is None else open_source(config.aiter))


def _announce(config: CampaignConfig, live: Live, made_by: Provenance, workers: int, cluster: Cluster) -> None:
    heads = ", ".join(map(str, config.space().heads))
    live.say(
        f"{config.backend}, heads {heads}, device {config.device}, seed {config.seed}, "
        f"{'guided' if config.guided else 'unguided'}; {workers} workers on Ray ({cluster.name}, {cluster.nodes} nodes); "
        f"sources {made_by.rules}; {config.out}"
    )
    for warning in made_by.warnings:
        live.say(f"warning: {warning}")
