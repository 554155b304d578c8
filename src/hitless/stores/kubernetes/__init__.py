"""The store inside Kubernetes: one custom object a key, spoken to over the API server's REST interface.

`options` is the configuration, `api` makes requests, `record` turns objects into entries and back, `log` is one history
with its epoch, `writes` commits and erases, `leases` are Lease objects judged by the API server's own clock, `feed` is
what stands behind a watch, `shown` writes what people read with `kubectl get hitlessnodes`, and `store` puts them
together behind the port. lightkube is imported when the first request is made, and not before.

Of lightkube only its configuration and connection are used (kubeconfig, service account, token renewal, exec plugins,
TLS): what this store stands on, namely preconditions on deletion, bookmarks, the server's Date and the reason in a
Status, is what typed clients hide.
"""
