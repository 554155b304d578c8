"""The Linux kernel's IPsec, over netlink."""
