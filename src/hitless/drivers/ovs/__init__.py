"""One Open vSwitch bridge through its own tools and sockets: flow text, bundles, OVSDB, connection tracking."""
