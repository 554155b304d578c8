"""Telling a peer that cannot be understood from noise, by the counters of its IN state.

A wrong key and a sender whose counter went back raise the same namespace-wide counter (XfrmInStateProtoError). Per SA
they show as `integrity_failed` and `replay`, and what matters is common to both: failures grow while the highest
sequence number received stands still.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hitless.core.ipsec.state import Sample, SaRef

_STRIKES = 2
"""Looks in a row that saw failures and nothing received: one may fall between two packets of a burst."""


def judged(before: Mapping[SaRef, Sample], now: Mapping[SaRef, Sample]) -> dict[SaRef, Sample]:
    """New samples with their strikes."""
    return {ref: _judge(before.get(ref), sample) for ref, sample in now.items()}


def _judge(before: Sample | None, now: Sample) -> Sample:
    # A packet that got through clears the strikes: then the failures are noise, or forged.
    if before is None or now.seq > before.seq:
        return now
    return msgspec.structs.replace(now, strikes=before.strikes + (now.errors > before.errors))


def is_deaf(sample: Sample) -> bool:
    """Whether what arrives under this ref cannot be decrypted, for longer than a moment."""
    return sample.strikes >= _STRIKES
