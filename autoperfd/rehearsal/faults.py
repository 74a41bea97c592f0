"""What may go wrong and what people may do, drawn from a seed and spread over the first minutes of a world.

`trouble(seed)` makes a world full of it; each fault that was put in is told in the history.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoperfd.core.lifecycle import STATES
from autoperfd.core.settings import DaemonSettings
from autoperfd.rehearsal.drafts import Draft, draw, paced_otherwise
from autoperfd.rehearsal.machines import RUNGS, VirtualMachine
from autoperfd.rehearsal.workers import Mischief
from autoperfd.rehearsal.world import PLENTY, Chances, World

ILLS = ("PING", "PING", "SSH_SILENT", "SSH_NO_BANNER", "SHELL_HANG", "SHELL_HANG", "BAD_ANSWER", "PING_LOST")
VERBS = ("probe", "boot_id", "reboot", "prepare", "go", "go", "await", "state", "stop", "sweep")
HORIZON_SECS = (60.0, 500.0)
LOOKS = 300  # how often, a second apart, a fault looks for an attempt that it can strike
Fault = Callable[[World, random.Random], None]


def trouble(seed: int, files: Sequence[bytes] = (), **more: Any) -> World:
    """A world of that seed with faults in it; of the given experiment files, or of files it draws itself."""
    rng = random.Random(f"trouble {seed}")
    drafts = () if files else _drafts(rng)
    world = World(
        seed,
        files or [draft.text().encode() for draft in drafts],
        settings=_settings(rng),
        chances=_chances(rng),
        mischief=_mischief(rng),
        drafts=drafts,
        **more,
    )
    for machine in world.machines.values():
        machine.forgetful = rng.random() < 0.3
    horizon = rng.uniform(*HORIZON_SECS)
    theme = rng.choices((LADDER, OUTAGES, FAULTS), (3, 1, 6))[0]
    kinds = rng.sample(theme, rng.randint(1, min(6, len(theme))))  # a few kinds together show more than all at once
    for _ in range(rng.choice((0, 2, 5, 10, 20))):
        _put(world, rng.choice(kinds), rng, rng.uniform(0.0, horizon))
    for _ in range(rng.choice((0, 0, 2, 5, 12))):
        _put(world, rng.choice(PEOPLE), rng, rng.uniform(0.0, horizon))
    world.horizon = horizon
    return world


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of one seed. `problems`: sentences about what did not hold; [] when all is well."""

    seed: int
    problems: list[str]
    history: str
    digest: str  # SHA-256 of the history
    commits: int
    deaths: int  # of the daemon


def rehearse(seed: int, files: Sequence[bytes] = (), **more: Any) -> Rehearsal:
    """Live through a world of that seed, with trouble first and calm later. Raises ConfigError."""
    with trouble(seed, files, **more) as world:
        try:
            world.live(world.horizon, stop_early=False)
            found = world.problems(ended=False) or world.conclude()
        except AssertionError as error:
            found = [str(error) or "an assertion of the product does not hold"]
        return Rehearsal(seed, found, world.history, world.digest(), world.commits, world.deaths)


def _drafts(rng: random.Random) -> tuple[Draft, ...]:
    first = draw(rng, "E1", ("m1", "m2", "m3")[: rng.choice((2, 2, 3))])
    if rng.random() < 0.7:
        return (first,)
    return (first, draw(rng, "E #2", rng.choice((("m1", "m2"), ("m2", "m4"), ("m4", "m5")))))


def _settings(rng: random.Random) -> DaemonSettings:
    return replace(
        DaemonSettings(),
        validation_secs=rng.choice((3.0, 10.0, 30.0)),
        patience_secs=rng.choice((0.0, 20.0, 60.0, 300.0, 1800.0)),
        backoff_first_secs=rng.choice((1.0, 5.0)),
        backoff_cap_secs=rng.choice((10.0, 60.0)),
        boot_budget_secs=rng.choice((30.0, 90.0)),
        auto_resume=rng.random() < 0.8,
        probe_secs=rng.choice((10.0, 60.0)),
        restart_after_secs=rng.choice((0.0, 0.0, 10.0, 60.0, 300.0)),
        grace_secs=5.0,
    )


def _chances(rng: random.Random) -> Chances:
    return Chances(
        dies=rng.choice((0.0, 0.0, 0.01, 0.05)),
        commit_fails=rng.choice((0.0, 0.0, 0.0, 0.01)),
        bad_tests=rng.choice((0.0, 0.2, 0.6)),
        flaky=rng.choice((0.0, 0.1, 0.4)),
        poisonous=rng.choice((0.0, 0.0, 0.0, 0.3)),
        unheard=rng.choice((0.0, 0.3)),
        doubled=rng.choice((0.0, 0.5)),
    )


def _mischief(rng: random.Random) -> Mischief:
    def maybe(probability: float) -> float:
        return probability if rng.random() < 0.2 else 0.0

    return Mischief(
        doubled=maybe(0.3),
        late=maybe(0.3),
        hangs=maybe(0.02),
        bugs=maybe(0.02),
        disk=maybe(0.1),
        fetch=maybe(0.1),
        quota=maybe(0.2),
    )


def _put(world: World, fault: Fault, rng: random.Random, when: float) -> None:
    seed = rng.getrandbits(32)

    def strike() -> None:
        if world.timeline.asleep:
            world.timeline.at(world.timeline.awake_at, strike)
        elif not world.is_calm:
            fault(world, random.Random(seed))

    if rng.random() < 0.3:
        world.when.setdefault(rng.choice(STATES), []).append(strike)
    else:
        world.timeline.after(when, strike)


# ---------------------------------------------------------------- machines


def _some(world: World, rng: random.Random) -> VirtualMachine:
    return rng.choice(list(world.machines.values()))


def _for_a_while(
    world: World,
    rng: random.Random,
    machine: VirtualMachine,
    what: str,
    on: Callable[[], None],
    off: Callable[[], None],
) -> None:
    secs = rng.choice((1.0, 5.0, 20.0, 60.0, 200.0)) * rng.uniform(0.5, 1.5)
    world.say(f"fault: {machine.name} {what} for {secs:.0f} s")
    on()
    world.timeline.after(secs, lambda: None if world.is_calm else off())


def _reboots(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    world.say(f"fault: {machine.name} reboots by itself")
    machine.cycle()


def _loses_power(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(world, rng, machine, "is off", machine.down, lambda: None if machine.up else machine.boot())


def _all_lose_power(world: World, rng: random.Random) -> None:
    world.say("fault: the power fails")
    for machine in world.machines.values():
        machine.cycle(rng.uniform(5.0, 60.0))


def _is_cut(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(
        world, rng, machine, "is cut from the network", lambda: machine.set_cut(True), lambda: machine.set_cut(False)
    )


def _all_are_cut(world: World, rng: random.Random) -> None:
    for machine in world.machines.values():
        seconds = random.Random(rng.random())
        _for_a_while(
            world,
            seconds,
            machine,
            "is cut with all the others",
            lambda machine=machine: machine.set_cut(True),  # type: ignore[misc]
            lambda machine=machine: machine.set_cut(False),  # type: ignore[misc]
        )


def _is_away_in_mid_attempt(world: World, rng: random.Random) -> None:
    """The attempt goes on meanwhile, but its participants do not find each other: when it ends all is well again."""
    left = [LOOKS]

    def look() -> None:
        left[0] -= 1
        running = [(machine, uid) for machine in world.machines.values() for uid in machine.alive()]
        if running and not world.is_calm:
            machine, uid = rng.choice(running)
            secs, status = rng.choice((1.0, 8.0, 20.0, 60.0)), rng.choice(("no-match", "no-data", "timeout"))
            world.say(f"fault: {machine.name} is away for {secs:.0f} s in {uid[:8]}, which ends as {status}")
            world.spoil(uid, status)
            machine.set_cut(True)
            world.timeline.after(secs, lambda: machine.set_cut(False))
        elif left[0] and not world.is_calm:
            world.timeline.after(1.0, look)

    look()


def _flaps(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    world.say(f"fault: {machine.name} flaps")
    when = 0.0
    for _ in range(rng.randint(2, 6)):
        when += rng.uniform(1.0, 20.0)
        world.timeline.after(when, lambda: None if world.is_calm else machine.set_cut(True))
        when += rng.uniform(0.5, 20.0)
        world.timeline.after(when, lambda: machine.set_cut(False))


def _boots_again_and_again(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    world.say(f"fault: {machine.name} reboots again and again")
    when = 0.0
    for _ in range(rng.randint(2, 5)):
        when += rng.uniform(5.0, 40.0)
        world.timeline.after(when, lambda: None if world.is_calm else machine.cycle())


def _is_slow(world: World, rng: random.Random) -> None:
    machine, secs = _some(world, rng), rng.choice((0.5, 3.0))
    _for_a_while(
        world,
        rng,
        machine,
        "is slow",
        lambda: setattr(machine, "slow", secs),
        lambda: setattr(machine, "slow", 0.0),
    )


def _loses_answers(world: World, rng: random.Random) -> None:
    machine, share = _some(world, rng), rng.choice((0.1, 0.5))
    _for_a_while(
        world,
        rng,
        machine,
        "loses answers",
        lambda: setattr(machine, "deaf", share),
        lambda: setattr(machine, "deaf", 0.0),
    )


def _needs_a_person(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(
        world,
        rng,
        machine,
        "needs a person",
        lambda: setattr(machine, "impossible", "sudo asks for a password"),
        lambda: setattr(machine, "impossible", ""),
    )


def _is_taken(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(
        world,
        rng,
        machine,
        "is used by somebody else",
        lambda: setattr(machine, "taken", True),
        lambda: setattr(machine, "taken", False),
    )


def _clings(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(
        world,
        rng,
        machine,
        "cannot end processes",
        lambda: setattr(machine, "stubborn", True),
        lambda: machine.mend() if machine.stubborn else None,
    )


def _ignores_reboots(world: World, rng: random.Random) -> None:
    machine, obeys = _some(world, rng), rng.choice((("forced", "power"), ("power",), ()))
    _for_a_while(
        world,
        rng,
        machine,
        f"ignores reboots, obeys {', '.join(obeys) or 'nothing'},",
        lambda: setattr(machine, "obeys", obeys),
        lambda: setattr(machine, "obeys", RUNGS),
    )


def _falls_ill(world: World, rng: random.Random) -> None:
    """It stays so until a rung of the ladder that it obeys, or somebody comes after a long time."""
    machine, code = _some(world, rng), rng.choice(ILLS)
    obeys = rng.choice((RUNGS, RUNGS, ("forced", "power"), ("power",), ()))
    relapses, switch = rng.choice((0, 0, 0, 1, 3)), rng.choice(("works", "works", "works", "refuses", "idle"))
    words = f"obeys {', '.join(obeys) or 'nothing'}, relapses {relapses} times, its switch {switch}"
    world.say(f"fault: {machine.name} is ill ({code}): {words}")
    machine.switch = switch
    machine.fall_ill(code, obeys, relapses)
    world.timeline.after(rng.uniform(200.0, 4000.0), lambda: machine.cycle() if machine.ill else None)


def _parts(world: World, rng: random.Random) -> None:
    machines = list(world.machines.values())
    one, other = rng.sample(machines, 2)
    _for_a_while(
        world,
        rng,
        one,
        f"and {other.name} do not hear each other",
        lambda: world.part(one, other),
        lambda: world.join(one, other),
    )


def _is_disturbed(world: World, rng: random.Random) -> None:
    """What the guards are for."""
    machine = _some(world, rng)
    what, name, value, calm = rng.choice(
        (
            ("has somebody logged in", "users", ("bob pts/0 192.0.2.9",), ()),
            ("runs somebody's benchmark", "foreign", ("4711 perftest_cpp",), ()),
            ("is throttled", "throttled", 0x50005, 0),
        )
    )
    _for_a_while(world, rng, machine, what, lambda: setattr(machine, name, value), lambda: setattr(machine, name, calm))


def _has_bad_links(world: World, rng: random.Random) -> None:
    machine, count = _some(world, rng), rng.choice((50, 1000))
    world.say(f"fault: {machine.name} has {count} errors on its links")
    machine.link_errors += count


def _steps_its_clock(world: World, rng: random.Random) -> None:
    machine, secs = _some(world, rng), rng.choice((-1e9, -3600.0, 0.5, 3600.0, 1e9))
    world.say(f"fault: the clock of {machine.name} steps by {secs:.0f} s")
    machine.clock += secs


def _has_full_disk(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(
        world,
        rng,
        machine,
        "has no room on its disk",
        lambda: setattr(machine, "disk_full", True),
        lambda: setattr(machine, "disk_full", False),
    )


def _flaps_for_long(world: World, rng: random.Random) -> None:
    machine, way = _some(world, rng), rng.choice(("link", "boot"))
    world.say(f"fault: {machine.name} flaps for long ({way})")
    left = [rng.randint(20, 80)]

    def flap() -> None:
        left[0] -= 1
        if world.is_calm or not left[0]:
            machine.set_cut(False)
            return
        if way == "boot":
            machine.cycle()
        else:
            machine.set_cut(not machine.cut)
        world.timeline.after(rng.uniform(2.0, 40.0), flap)

    flap()


def _never_goes(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    _for_a_while(
        world,
        rng,
        machine,
        "starts nothing",
        lambda: setattr(machine, "never_goes", True),
        lambda: setattr(machine, "never_goes", False),
    )


def _is_hit_at_a_step(world: World, rng: random.Random) -> None:
    """Something happens just when a certain verb arrives: the steps of an attempt last milliseconds."""
    machine, verb = _some(world, rng), rng.choice(VERBS)
    what = rng.choice(("cut", "cut after", "cycle", "stranger", "kill"))
    secs = rng.choice((1.0, 10.0, 60.0))
    world.say(f"fault: {machine.name} is to be hit at the next {verb}: {what}")

    def cut() -> None:
        machine.set_cut(True)
        world.timeline.after(secs, lambda: machine.set_cut(False))

    def hit() -> None:
        world.say(f"fault: {machine.name} is hit at {verb}: {what}")
        match what:
            case "cut":
                cut()
            case "cut after":  # it is carried out, but nobody hears of it
                world.timeline.after(0.0, cut)
            case "cycle":
                machine.cycle()
            case "stranger":
                machine.stranger = True
                world.timeline.after(secs, lambda: setattr(machine, "stranger", False))
            case "kill":
                world.timeline.after(0.0, world.kill)

    machine.traps[verb] = hit


def _is_wiped(world: World, rng: random.Random) -> None:
    machine = _some(world, rng)
    world.say(f"fault: {machine.name} loses its files")
    machine.wipe()


# ---------------------------------------------------------------- the controller


def _daemon_killed(world: World, rng: random.Random) -> None:
    world.say("fault: the daemon is killed")
    world.kill()


def _daemon_stopped(world: World, rng: random.Random) -> None:
    world.say("fault: the daemon is stopped")
    world.stop()


def _clock_steps(world: World, rng: random.Random) -> None:
    secs = rng.choice((-1e9, -86400.0, -3600.0, 3600.0, 86400.0, 1e9))
    world.say(f"fault: the clock steps by {secs:.0f} s")
    world.timeline.step += secs
    if rng.random() < 0.5:
        back = rng.uniform(1.0, 300.0)

        def set_right() -> None:
            world.say(f"fault: the clock steps back by {-secs:.0f} s")
            world.timeline.step -= secs

        world.timeline.after(back, set_right)


def _clock_lost(world: World, rng: random.Random) -> None:
    """The controller comes up with a clock of another age."""
    year, wall = rng.choice(((1970, 0.0), (2038, 2_147_483_640.0), (2106, 4_294_967_290.0)))
    world.say(f"fault: the daemon is killed and comes back in {year}")
    world.kill()
    world.timeline.step = wall - world.timeline.now


def _sleeps(world: World, rng: random.Random) -> None:
    secs = rng.choice((1.0, 20.0, 600.0, 20_000.0)) * rng.uniform(0.5, 1.5)
    world.say(f"fault: the controller is suspended for {secs:.0f} s")
    world.suspend(secs)


def _is_cut_off(world: World, rng: random.Random) -> None:
    """The controller's own network is down: nobody answers, and nobody can be told."""
    secs, unheard = rng.choice((5.0, 60.0, 600.0)) * rng.uniform(0.5, 1.5), world.chances.unheard
    world.say(f"fault: the controller is off the network for {secs:.0f} s")
    world.chances.unheard = 1.0
    for machine in world.machines.values():
        machine.set_cut(True)

    def back() -> None:
        if not world.is_calm:
            world.chances.unheard = unheard
            for machine in world.machines.values():
                machine.set_cut(False)

    world.timeline.after(secs, back)


def _disk_full(world: World, rng: random.Random) -> None:
    secs = rng.uniform(5.0, 200.0)
    world.say(f"fault: the disk is full for {secs:.0f} s")
    world.free = 0

    def room() -> None:
        world.free = PLENTY

    world.timeline.after(secs, room)


def _archive_lost(world: World, rng: random.Random) -> None:
    if world.archives:
        key = rng.choice(sorted(world.archives))
        world.say(f"fault: {key[1]} is lost")
        world.lost.add(key)
        del world.archives[key]


FAULTS: tuple[Fault, ...] = (
    _reboots,
    _loses_power,
    _all_lose_power,
    _is_cut,
    _all_are_cut,
    _is_away_in_mid_attempt,
    _flaps,
    _boots_again_and_again,
    _is_slow,
    _loses_answers,
    _needs_a_person,
    _is_taken,
    _clings,
    _ignores_reboots,
    _never_goes,
    _falls_ill,
    _falls_ill,
    _falls_ill,
    _parts,
    _is_disturbed,
    _is_disturbed,
    _has_bad_links,
    _steps_its_clock,
    _has_full_disk,
    _flaps_for_long,
    _is_hit_at_a_step,
    _is_hit_at_a_step,
    _is_hit_at_a_step,
    _is_wiped,
    _daemon_killed,
    _daemon_stopped,
    _clock_steps,
    _clock_lost,
    _sleeps,
    _is_cut_off,
    _disk_full,
    _archive_lost,
)

LADDER: tuple[Fault, ...] = (
    _falls_ill,
    _falls_ill,
    _falls_ill,
    _ignores_reboots,
    _flaps_for_long,
    _loses_power,
    _is_hit_at_a_step,
    _daemon_killed,
    _is_cut_off,
)

OUTAGES: tuple[Fault, ...] = (
    _is_cut_off,
    _is_cut_off,
    _all_are_cut,
    _all_lose_power,
    _sleeps,
    _is_away_in_mid_attempt,
    _is_away_in_mid_attempt,
)

# ---------------------------------------------------------------- people


def _names(world: World) -> list[str]:
    return [e.name for e in world.experiments]


def _halt(world: World, rng: random.Random) -> None:
    world.command("halt", experiment=rng.choice(_names(world)))


def _hold(world: World, rng: random.Random) -> None:
    world.command("halt")


def _resume(world: World, rng: random.Random) -> None:
    world.command("resume", experiment=rng.choice(_names(world)))


def _resume_all(world: World, rng: random.Random) -> None:
    world.command("resume")


def _cancel(world: World, rng: random.Random) -> None:
    if rng.random() < 0.5:
        world.command("cancel", experiment=rng.choice(_names(world)))


def _skip(world: World, rng: random.Random) -> None:
    if world.engine is None or not world.engine.entries:
        return
    number = rng.choice(list(world.engine.entries))
    life = world.engine.entries[number].life
    tests = world.undecided(number)
    if tests:
        test = life.test if life.test and rng.random() < 0.4 else rng.choice(tests)
        world.command("skip", test=test, experiment=life.experiment.name)


def _retry(world: World, rng: random.Random) -> None:
    if world.engine is None or not world.engine.entries:
        return
    number = rng.choice(list(world.engine.entries))
    tests = world.failed(number)
    if tests:
        world.command("retry", test=rng.choice(tests), experiment=world.engine.entries[number].row.name)


def _retry_failed(world: World, rng: random.Random) -> None:
    world.command("retry", failed=True)


def _drop_again(world: World, rng: random.Random) -> None:
    at = rng.randrange(len(world.files))
    data = world.files[at]
    if world.drafts and rng.random() < 0.7:
        data = paced_otherwise(rng, world.drafts[at]).text().encode()
    world.say(f"ann: drops {at}.toml again")
    world.drop(f"{at}.toml", data)


def _look(world: World, rng: random.Random) -> None:
    world.command("status")
    world.command("list")
    world.command("show", experiment=rng.choice(_names(world)))


PEOPLE: tuple[Fault, ...] = (
    _halt,
    _hold,
    _resume,
    _resume_all,
    _resume_all,
    _cancel,
    _skip,
    _skip,
    _retry,
    _retry_failed,
    _drop_again,
    _look,
)
