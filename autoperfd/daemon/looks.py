"""Answers what takes a look at the network: host keys for `trust`, machines for `check --probe`, a test message.

All are done on the caller's thread, for the network must not hold the engine. No machine that is in use is touched.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from autoperfd.core.config import Experiment
from autoperfd.core.plan import Machine
from autoperfd.daemon import commands
from autoperfd.daemon.control import Reply, Who
from autoperfd.daemon.message import Fact
from autoperfd.daemon.notify import Message, Outcome, Sender
from autoperfd.daemon.parse import read_limited
from autoperfd.daemon.pins import PinBook
from autoperfd.errors import AutoperfError, ConfigError
from autoperfd.remote import udp
from autoperfd.remote.fleet import Fleet
from autoperfd.remote.threads import HINT, NoThread, begin
from autoperfd.tools import TOOLS

Ask = Callable[[str, Mapping[str, Any], Who], Reply]
MOST_LOOKED_AT = 200  # machines
LOOK_SECS = 25.0
PROBE_SECS = 32.0  # for all of a probe, what is between machines included; autoperfctl waits for 35
TESTS_ASKED = 1000  # whether they use multicast


@dataclass(frozen=True, slots=True)
class Looks:
    """`ask`: the engine, for everything else. `power`: the names of the power switches an experiment may use.

    `domains`: the DDS domains attempts may lease.
    """

    ask: Ask
    fleet: Fleet
    pins: PinBook
    power: Collection[str]
    sender: Callable[[Callable[[Message, Outcome], None]], Sender] | None  # of messages; None: there is no webhook
    domains: range

    def __call__(self, command: str, args: Mapping[str, Any], who: Who) -> Reply:
        """Answer a command."""
        match command:
            case "scan":
                return self._scan(args)
            case "probe":
                return self._probe(args, who)
            case "test_message":
                return self._test_message()
        return self.ask(command, args, who)

    def _scan(self, args: Mapping[str, Any]) -> Reply:
        machines = commands.machines_of(args, "machines")[:MOST_LOOKED_AT]

        def look(place: int) -> dict[str, object]:
            host, port, item = machines[place]
            seen: dict[str, object] = {"name": str(item.get("name") or host), "host": host, "port": port}
            try:
                seen["keys"] = self.fleet.scan(host, port)
            except AutoperfError as error:
                seen["error"] = error.sentence()
            return {**seen, "trusted": self.pins.keys_for(host, port)}

        return _side_by_side(look, [{} for _ in machines], "scan")

    def _probe(self, args: Mapping[str, Any], who: Who) -> Reply:
        """Validate the machines of an experiment file, and whom each one hears, by pings and by UDP.

        args {text, hear}; data {machines: [{experiment, machine, well, …}]}.
        """
        deadline = time.monotonic() + PROBE_SECS
        text = args.get("text")
        if not isinstance(text, str):
            return Reply.refused("the command needs the text of an experiment file")
        try:
            experiments = read_limited(text.encode(errors="surrogateescape"), "the file", TOOLS, self.power).experiments
        except ConfigError as error:
            return Reply.refused(error.message)
        once: dict[tuple[str, int], tuple[Experiment, Machine]] = {}
        for experiment in experiments:
            for machine in experiment.machines:
                once.setdefault((machine.ip, machine.port), (experiment, machine))
        wanted = list(once.values())[:MOST_LOOKED_AT]
        places = [{"host": machine.ip, "port": machine.port} for _, machine in wanted]
        busy = self.ask("in_use", {"machines": places}, who)
        if not busy.ok:
            return busy
        users = busy.data["users"]

        def look(place: int) -> dict[str, object]:
            experiment, machine = wanted[place]
            seen: dict[str, object] = {"experiment": experiment.name, "machine": machine.name}
            if users[place]:
                return {**seen, "well": None, "sentence": f"{users[place]} uses it now", "hint": ""}
            return {**seen, **self._validated(experiment, machine)}

        late = f"it was not looked at within {LOOK_SECS:.0f} s"
        unseen = [
            {"experiment": experiment.name, "machine": machine.name, "well": False, "sentence": late, "hint": ""}
            for experiment, machine in wanted
        ]
        reply = _side_by_side(look, unseen, "probe")
        if args.get("hear") and reply.ok:
            free = [domain for domain in self.domains if domain not in busy.data["domains"]]
            self._listen(wanted, reply.data["machines"], [udp.port_of(domain) for domain in free], deadline)
        return reply

    def _listen(
        self,
        wanted: Sequence[tuple[Experiment, Machine]],
        seen: Sequence[dict[str, object]],
        ports: Sequence[int],
        deadline: float,
    ) -> None:
        """Add to what was seen of each fit machine what it hears of the other fit ones of its experiment.

        `hears`: who answers its pings. `udp`: see Arrivals, and whether tests of the experiment use multicast.
        """
        fit = {(one["experiment"], one["machine"]): one for one in seen if one["well"]}
        experiments = {experiment.name: experiment for experiment, _ in wanted}
        for name, experiment in experiments.items():
            machines = [machine for of, machine in wanted if of.name == name and (name, machine.name) in fit]
            if len(machines) > 1:
                for machine, found in self.fleet.examine(machines, cancelled=threading.Event()).items():
                    fit[name, machine]["hears"] = dict(found.hears)
                left = deadline - time.monotonic()
                heard = self.fleet.udp(machines, ports, secs=left, cancelled=threading.Event())
                multicast = _uses_multicast(experiment)
                for machine, at in heard.items():
                    fit[name, machine]["udp"] = {**asdict(at), "multicast": multicast}

    def _test_message(self) -> Reply:
        """Send one message now, past the outbox: data {result: "none", "sent", "failed" or "dead", why}."""
        if self.sender is None:
            return Reply(data={"result": "none", "why": ""})
        outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        sender = self.sender(lambda _, outcome: outcomes.put(outcome))
        now, sentence = time.time(), "somebody asked whether messages arrive; nothing is to be done"
        facts: dict[str, Fact] = {"experiment": "this daemon", "sentence": sentence, "at": now}
        try:
            sender.start()
            sender.submit(Message(f"test-{now:.3f}", "test", facts, now))
            outcome = outcomes.get(timeout=LOOK_SECS)
        except queue.Empty:
            outcome = Outcome("failed", f"no answer within {LOOK_SECS:.0f} s")
        finally:
            sender.close()
        return Reply(data={"result": outcome.result, "why": outcome.why})

    def _validated(self, experiment: Experiment, machine: Machine) -> dict[str, object]:
        tool = TOOLS[experiment.tool]
        try:
            found = self.fleet.validate(
                [machine],
                tool.probe_argv,
                tool.probe_exits,
                wants_reboot=experiment.policy.reboot != "never",
                cancelled=threading.Event(),
                patience_secs=0.0,
            )
        except AutoperfError as error:
            return {"well": False, "sentence": error.message, "hint": error.hint}
        report = found.machines[machine.name]
        return {"well": True, "facts": dict(report.facts), "warnings": list(report.warnings)}


def _uses_multicast(experiment: Experiment) -> bool:
    """Whether a test of it does, as far as so many of them tell; drawn, for evenly spread ones may all be alike."""
    sweep = experiment.sweep.seeded(experiment.seed or 0)
    drawn = random.Random(0).sample(range(sweep.count), min(sweep.count, TESTS_ASKED))
    return any(sweep.at(i).get("use_multicast") is True for i in drawn)


def _side_by_side(look: Callable[[int], dict[str, object]], unseen: Sequence[dict[str, object]], name: str) -> Reply:
    """What looks at machines found; `unseen`: what is said of each that is not looked at in time, {} for nothing."""
    found = list(unseen)

    def one(place: int) -> None:
        found[place] = look(place)

    try:
        threads = [begin(partial(one, place), f"{name} {place}") for place in range(len(found))]
    except NoThread as error:
        return Reply.refused(f"the machines cannot be looked at: {error.strerror}", HINT)
    deadline = time.monotonic() + LOOK_SECS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return Reply(data={"machines": [seen for seen in found if seen]})
