"""A kernel's refusal in words: errno and extended ack to a stable code and a sentence.

The codes appear in conditions, metrics and logs: `exists`, `no-such-sa`, `no-such-policy`,
`algorithm-unknown`, `bad-key-length`, `permission`, `no-memory`, `invalid`, `no-answer`, and
`refused-<errno name>` for all else. No sentence ever contains key material.
"""

from __future__ import annotations

import errno
import os

from hitless.core.model.sa import Aead, Sa, SaKey
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, Outcome
from hitless.drivers.xfrm.kernel import Answer

# Key lengths in bytes, with the salt or nonce that the RFC appends to the cipher's own key: RFC 4106 §8.1,
# RFC 4543 §5, RFC 4309 §7.1, RFC 7634 §2, RFC 3602 §2.2, RFC 3686 §5.1.
_KEY_BYTES = {
    "rfc4106(gcm(aes))": (20, 28, 36), "rfc4543(gcm(aes))": (20, 28, 36), "rfc4309(ccm(aes))": (19, 27, 35),
    "rfc7539esp(chacha20,poly1305)": (36,), "cbc(aes)": (16, 24, 32), "rfc3686(ctr(aes))": (20, 28, 36),
    "cbc(des3_ede)": (24,), "ecb(cipher_null)": (0,),
}  # fmt: skip


def outcome(op: Op, answer: Answer) -> Outcome:
    """The outcome of an operation from the kernel's answer to its message."""
    if answer.code:
        return Outcome(op, answer.code, answer.message)
    if not answer.errno:
        return Outcome(op)
    code, why = _explain(op, answer.errno)
    name = errno.errorcode.get(answer.errno, str(answer.errno))
    said = f", the kernel says: {answer.message}" if answer.message else ""
    return Outcome(op, code, f"{why} ({name}: {os.strerror(answer.errno)}{said})")


# The same for every operation.
_ALWAYS = {
    errno.EEXIST: ("exists", "something with this key was there already and has been left alone; observe again"),
    errno.EPERM: ("permission", "this takes CAP_NET_ADMIN in the network namespace; run as root or grant it"),
    errno.ENOMEM: ("no-memory", "the kernel is out of memory; nothing was changed, try again"),
    errno.ENOBUFS: ("no-memory", "the kernel is out of buffers; nothing was changed, try again"),
}


def _explain(op: Op, number: int) -> tuple[str, str]:
    if number in _ALWAYS:
        return _ALWAYS[number]
    if isinstance(op, DelSa) and number == errno.ESRCH:
        return "no-such-sa", f"there is no SA {_sa_text(op.key)}; it may have been deleted by someone else"
    if isinstance(op, DelPolicy) and number == errno.ENOENT:
        return "no-such-policy", "there is no policy with this direction and selector"
    if isinstance(op, AddSa):
        return _explain_add(op.sa, number)
    return f"refused-{errno.errorcode.get(number, str(number)).lower()}", "the kernel refused"


def _explain_add(sa: Sa, number: int) -> tuple[str, str]:
    if number in {errno.ENOSYS, errno.ENOENT}:
        return "algorithm-unknown", (
            f"the kernel has no {_algorithms(sa)} for ESP; load its module or choose another algorithm"
        )
    if number == errno.EINVAL and (wrong := bad_key_length(sa)):
        return "bad-key-length", wrong
    if number == errno.EPROTONOSUPPORT:
        return "refused-eprotonosupport", "the kernel has no ESP or not this mode; load esp4 and esp6"
    name = errno.errorcode.get(number, str(number))
    return f"refused-{name.lower()}", f"the kernel refused the SA {_sa_text(sa.key)}"


def bad_key_length(sa: Sa) -> str:
    """Says which key has a length its algorithm does not take; "" where none has or nothing is known."""
    crypto = sa.crypto
    if isinstance(crypto, Aead):
        name, length = crypto.name, len(crypto.key)
    else:
        name, length = crypto.enc_name, len(crypto.enc_key)
    allowed = _KEY_BYTES.get(name)
    if allowed is None or length in allowed:
        return ""
    return f"{name} takes keys of {', '.join(map(str, allowed))} bytes, this one has {length}"


def _algorithms(sa: Sa) -> str:
    crypto = sa.crypto
    return crypto.name if isinstance(crypto, Aead) else f"{crypto.auth_name} with {crypto.enc_name}"


def _sa_text(key: SaKey) -> str:
    return f"to {key.dst} with SPI 0x{key.spi:08x}"
