"""Real kernels: network-namespace nodes, the guest, and probes that count loss and leaks."""
