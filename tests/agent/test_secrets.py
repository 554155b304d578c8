"""Key material is planted, everything the program says is collected, and none of the material may be in it."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import msgspec
from structlog.testing import capture_logs
from tests.agent.cluster import Cluster, key_line, run, until

from hitless.core.model.sa import Aead


def forms(material: bytes) -> set[bytes]:
    """The ways in which bytes get into text by accident, cut to a length that is unlikely by chance."""
    shown = {material.hex().encode(), repr(material)[2:-1].encode(), base64.b64encode(material), material}
    shown |= {str(list(material))[1:-1].encode(), str(int.from_bytes(material, "big")).encode()}
    return {each[: len(each) // 2] for each in shown} | {material.hex().upper().encode()[:20]}


def test_no_output_of_agents_or_store_has_key_material(tmp_path: Path) -> None:
    said: list[bytes] = []
    planted: set[bytes] = set()

    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        with capture_logs() as logs:
            for generation in (1, 2):
                cluster.key(key_line(generation))
                if generation == 1:
                    cluster.start()
                await cluster.settled(generation)
                planted.add(bytes([generation % 251 + 1]) * 20)
                planted.update(sa.crypto.key.reveal() for sa in cluster.sas("n1") if isinstance(sa.crypto, Aead))
            planted.add(b"\x0c" * 20)
            cluster.key(key_line(2, seed=11), "n1")  # refused: another key under a known id

            async def refused() -> bool:
                return any(each["event"] == "key-refused" for each in logs)

            await until(refused)
            said.extend(repr(each).encode() for each in logs)
        said.extend(entry.value for entry in cluster.log.list("/").entries)
        said.append(msgspec.json.encode(await cluster.status()))
        said.extend(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != "keys")
        said.append(repr(cluster.kernels["n1"].observe()).encode())
        await cluster.stop()

    run(test)
    assert len(planted) == 7
    assert len(said) > 20
    everything = b"\n".join(said)
    for material in planted:
        assert not [form for form in forms(material) if form in everything]


def test_no_key_command_shows_key_material(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    command = [sys.executable, "-m", "hitless", "key"]

    def call(*arguments: str) -> bytes:
        done = subprocess.run([*command, *arguments], capture_output=True, check=False)
        return done.stdout + done.stderr

    said = [call("new", str(file)), call("new", "--keep", "--algorithm", "aes-cbc-256-sha256", str(file))]
    materials = [bytes.fromhex(field[2:]) for field in file.read_text().split() if field.startswith("0x")]
    said += [call("check", str(file)), call("show", str(file)), call("show", "--cluster", "c", "-o", "json", str(file))]
    file.write_text(file.read_text()[:-30] + "\n")
    said += [call("check", str(file)), call("show", str(file)), call("new", str(file))]
    assert len(materials) == 3
    assert all(said)
    for material in materials:
        assert not [form for form in forms(material) if form in b"\n".join(said)]
