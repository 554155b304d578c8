"""Other programs' IPsec on a node: SAs and policies as an IKE daemon and as a Kubernetes network plugin make them.

They are there before the agents, and must be there afterwards, bit by bit. What they are compared by is the text of
`ip xfrm`, keys included but only as a digest: keys appear in no report.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import subprocess
from typing import Final

_IP_SECONDS: Final = 30.0
# An IKE daemon's: random SPIs from 0xc0000000 on, small reqids, a short replay window.
_IKE: Final = (
    "state add src 198.51.100.1 dst 198.51.100.2 proto esp spi 0xc1f2a310 reqid 1 mode tunnel "
    "replay-window 32 flag af-unspec aead rfc4106(gcm(aes)) {key} 128",
    "state add src 198.51.100.2 dst 198.51.100.1 proto esp spi 0xcb04d7e2 reqid 1 mode tunnel "
    "replay-window 32 flag af-unspec aead rfc4106(gcm(aes)) {key} 128",
    "policy add src 172.16.1.0/24 dst 172.16.2.0/24 dir out priority 375423 "
    "tmpl src 198.51.100.1 dst 198.51.100.2 proto esp spi 0xc1f2a310 reqid 1 mode tunnel",
    "policy add src 172.16.2.0/24 dst 172.16.1.0/24 dir in priority 375423 "
    "tmpl src 198.51.100.2 dst 198.51.100.1 proto esp reqid 1 mode tunnel",
    "policy add src 172.16.2.0/24 dst 172.16.1.0/24 dir fwd priority 375423 "
    "tmpl src 198.51.100.2 dst 198.51.100.1 proto esp reqid 1 mode tunnel",
)
# A network plugin's: one SPI for the whole cluster, reqid 1, told apart by marks; its FWD policy is optional.
_PLUGIN: Final = (
    "state add src 10.244.1.5 dst 10.244.2.5 proto esp spi 0x00000003 reqid 1 mode tunnel replay-window 0 "
    "mark 0x53e00 mask 0xffffff00 output-mark 0xe00 mask 0xf00 aead rfc4106(gcm(aes)) {key} 128",
    "state add src 10.244.2.5 dst 10.244.1.5 proto esp spi 0x00000003 reqid 1 mode tunnel replay-window 0 "
    "mark 0x50d00 mask 0xffff0f00 output-mark 0xd00 mask 0xf00 aead rfc4106(gcm(aes)) {key} 128",
    "policy add src 0.0.0.0/0 dst 10.244.2.0/24 dir out priority 0 mark 0x53e00 mask 0xffffff00 "
    "tmpl src 10.244.1.5 dst 10.244.2.5 proto esp spi 0x00000003 reqid 1 mode tunnel",
    "policy add src 0.0.0.0/0 dst 10.244.1.0/24 dir in priority 0 mark 0xd00 mask 0xf00 "
    "tmpl src 0.0.0.0 dst 10.244.1.5 proto esp reqid 1 mode tunnel",
    "policy add src 0.0.0.0/0 dst 10.244.1.0/24 dir fwd priority 2975 "
    "tmpl src 0.0.0.0 dst 10.244.1.5 proto esp reqid 1 mode tunnel level use",
)
_MARKS: Final = re.compile(r"198\.51\.100\.|172\.16\.|10\.244\.")


def place(namespace: str) -> None:
    """Put all of it into a named network namespace. Raises OSError or CalledProcessError where `ip` cannot."""
    lines = "".join(f"xfrm {line.format(key='0x' + secrets.token_hex(20))}\n" for line in (*_IKE, *_PLUGIN))
    # From standard input: keys in an argument list could be read by anybody.
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=lines, text=True, timeout=_IP_SECONDS, check=True)


def digest(namespace: str) -> tuple[int, str]:
    """How many foreign objects are there, and one digest over all of them, keys included."""
    found = sorted(block for kind in ("state", "policy") for block in _blocks(namespace, kind) if _MARKS.search(block))
    return len(found), hashlib.sha256("".join(found).encode()).hexdigest()


def _blocks(namespace: str, kind: str) -> list[str]:
    command = ["ip", "-n", namespace, "-d", "xfrm", kind, "list"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=_IP_SECONDS, check=True).stdout
    return re.split(r"^(?=\S)", text, flags=re.MULTILINE)
