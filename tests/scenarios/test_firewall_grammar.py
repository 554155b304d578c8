"""Firewall scenarios as text, and the world that they describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitless.core.firewall.compile import Local, compile_flows
from hitless.core.firewall.decide import Packet, Policy
from hitless.core.firewall.identity import KnownIds
from hitless.core.model.security import TCP, UDP, Direction
from hitless.lab import scenarios
from hitless.lab.firewall import grammar, outer, world
from hitless.lab.firewall import scenario as s
from hitless.lab.firewall.ground import GroundPort
from hitless.lab.firewall.streams import Stream, check
from hitless.lab.scenario import ScenarioError

HEADER = "title T\nports 8\ngroups 2\nstream udp web p1 p3 7001\n"


def parse(text: str) -> s.Scenario:
    return grammar.parse(text, source="here.txt", name="here")


@pytest.mark.parametrize("name", scenarios.firewall_names())
def test_scenarios_that_come_with_the_program_expect_something(name: str) -> None:
    found = outer.read(name)[0]
    assert found.name == name
    assert any(isinstance(step.action, s.Expect) for step in found.steps)
    metrics = {c.metric for step in found.steps
               if isinstance(step.action, s.Expect) and isinstance(c := step.action.condition, s.Compared)}  # fmt: skip
    assert {"broken"} <= metrics
    assert found.replay or {"leaked", "marks"} <= metrics


def test_no_name_stands_for_two_scenarios() -> None:
    assert not set(scenarios.names()) & set(scenarios.firewall_names())


def test_a_file_is_the_firewalls_where_its_header_has_ports(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.txt", tmp_path / "other.txt"
    mine.write_text(f"{HEADER}---\nstart\n")
    other.write_text("title T\nnodes 3\n---\nafter 1s # ports 3\nports\n")
    assert outer.concerns(str(mine))
    assert not outer.concerns(str(other))
    assert not outer.concerns(str(tmp_path / "nothing.txt"))
    assert outer.concerns("fw-restart")
    assert not outer.concerns("rotate")


def test_every_step_becomes_an_action() -> None:
    text = """
        rule add g1 web udp 7001 from 10.0.0.0/8
        rule remove g2 x
        port p3 in g1 g2
        port p4 gone
        tamper orphan foreign at p2
        probe start
        judge connections any
        probe stop
        expect broken web == 0
        wait healed connections within 3s within 4s
        wait flow_mods >= 2 within 5s
    """
    actions = [step.action for step in parse(f"{HEADER}---\n{text}").steps]
    assert actions[0] == s.Rule("g1", "web", (
        ("direction", "ingress"), ("ethertype", "ipv4"), ("protocol", "udp"), ("port", 7001),
        ("remote", {"prefix": "10.0.0.0/8"}),
    ))  # fmt: skip
    assert actions[1:5] == [
        s.Rule("g2", "x", None), s.Groups("p3", ("g1", "g2")), s.Groups("p4", ()), s.Tamper("orphan", "foreign", "p2"),
    ]  # fmt: skip
    assert actions[8] == s.Expect(s.Compared("broken", "web", "==", 0))
    assert actions[9] == s.Wait(s.Compared("healed", "connections", "<=", 3.0), 4.0)
    assert actions[10] == s.Wait(s.Compared("flow_mods", "", ">=", 2.0), 5.0)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("title T\nports 3\n---\n", "scenario-bad-number", 2),
        ("title T\nports 8\nspare 6\n---\n", "scenario-bad-number", 3),
        ("title T\nports 8\nwrite piecewise\n---\n", "scenario-order", 3),
        ("title T\nports 8\nstream tcp a p1 p9 1\n---\n", "scenario-unknown-name", 3),
        (f"{HEADER}---\nplug p9\n", "scenario-unknown-name", 6),
        (f"{HEADER}---\nrule remove g3 x\n", "scenario-unknown-name", 6),
        (f"{HEADER}---\nprobe start\njudge dns any\nprobe stop\n", "scenario-unknown-name", 7),
        (f"{HEADER}---\njudge web any\n", "scenario-order", 6),
        (f"{HEADER}---\nprobe start\n", "scenario-order", 6),
        (f"{HEADER}---\nexpect lost == 0\n", "scenario-order", 6),
        (f"{HEADER}---\nprobe start\nprobe stop\nprobe start\n", "scenario-order", 8),
        (f"{HEADER}---\ncrash at nowhere\n", "scenario-unknown-word", 6),
        (f"{HEADER}---\nexpect luck == 1\n", "scenario-unknown-word", 6),
    ],
)
def test_a_mistake_is_refused_with_its_line(text: str, code: str, line: int) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text)
    assert (caught.value.code, caught.value.line) == (code, line), caught.value


# --- the world ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", scenarios.firewall_names())
def test_the_first_policy_allows_connections_and_denies_what_is_forbidden(name: str) -> None:
    found = outer.read(name)[0]
    streams = world.streams(found)
    check(streams)
    policy = Policy(world.to_intent(world.documents(found)))
    ports = {port.name: port for port in world.ground_ports(found)}
    named = {each.stream.name for each in found.streams}
    generated = [each for each in streams if each.name not in named]
    assert sum(each.expected == "pass" for each in generated) == found.connections
    assert sum(each.expected == "drop" for each in generated) >= found.forbidden
    for stream in generated:
        assert allowed(policy, ports, stream) == (stream.expected == "pass"), stream


def allowed(policy: Policy, ports: dict[str, GroundPort], stream: Stream) -> bool:
    ends = stream.source, stream.destination
    here, there = (ports[end].address(ipv6=stream.ipv6) for end in ends)
    protocol = TCP if stream.kind == "tcp" else UDP
    packet = Packet("ipv6" if stream.ipv6 else "ipv4", protocol, here, there, 40000, stream.port)
    ways: tuple[tuple[str, Direction], ...] = ((ends[0], "egress"), (ends[1], "ingress"))
    return all(policy.decide(policy.intent.ports[end], way, packet).allowed for end, way in ways)


def test_the_large_scenarios_have_tables_of_the_size_that_the_figures_are_about() -> None:
    found = outer.read("fw-restart")[0]
    intent = world.to_intent(world.documents(found))
    ofports = {name: number for number, name in enumerate(found.port_names, 1)}
    assert 5_800 < len(compile_flows(intent, Local(ofports, {world.NETWORK: 7}), KnownIds()).flows) < 6_000


def test_shuffled_documents_are_other_files_and_the_same_intent(tmp_path: Path) -> None:
    from hitless.agent import firewall_files
    from hitless.agent.firewall.facts import generation
    from hitless.core.firewall.intent import intent

    documents = world.documents(outer.read("fw-order")[0])
    digests, texts = set(), set()
    for seed in (0, 1, 2):
        world.write(documents, tmp_path, seed)
        digests.add(generation(intent(firewall_files.read(tmp_path))))
        texts.add("".join(file.read_text() for file in sorted(tmp_path.glob("*.yaml"))))
    assert (len(digests), len(texts)) == (1, 3)
