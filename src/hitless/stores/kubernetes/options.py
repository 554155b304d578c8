"""What an administrator says about the cluster that holds the records, and how it is found when nothing is said."""

from __future__ import annotations

import re

import msgspec

from hitless.ports import StoreError

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A namespace's name (RFC 1123 label)."""


class KubernetesOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kubernetes"
):
    """A namespace of a cluster and how to reach it.

    Without `kubeconfig` the pod's service account is used, else the file in `$KUBECONFIG`, else `~/.kube/config`;
    `context` chooses in a kubeconfig. Without `namespace` it is the service account's, or the context's. All nodes of
    one hitless cluster share one namespace. `request_timeout_seconds` is for a call with all its attempts.
    `watch_silence_seconds` ends a stream on which nothing came, not even a bookmark (the server sends one a minute).
    While something is watched, ended leases are looked for every `sweep_seconds`, shared among all that watch.
    `show_nodes` keeps the HitlessNode objects that people read.
    """

    namespace: str = ""
    kubeconfig: str = ""
    context: str = ""
    request_timeout_seconds: float = 10.0
    watch_silence_seconds: float = 90.0
    sweep_seconds: float = 5.0
    show_nodes: bool = True


def check(options: KubernetesOptions) -> None:
    """Raises StoreError (`store-bad-options`) for a configuration that cannot be meant."""
    if options.namespace and not _LABEL.fullmatch(options.namespace):
        raise bad(f"{options.namespace!r} is no name of a namespace; use up to 63 of a-z, 0-9 and '-'")
    seconds = (options.request_timeout_seconds, options.watch_silence_seconds, options.sweep_seconds)
    if not all(each > 0 for each in seconds):
        raise bad("times must be positive numbers of seconds")
    if options.context and not options.kubeconfig:
        raise bad("context is given without kubeconfig; name the file that the context is in")


def bad(why: str) -> StoreError:
    return StoreError("store-bad-options", f"the kubernetes configuration makes no sense: {why}")
