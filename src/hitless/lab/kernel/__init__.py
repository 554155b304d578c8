"""Real kernels for tests, demonstrations and scenarios, on any machine: one face, three implementations.

Many machines have no ESP and cannot load modules. `choose()` gives a kernel that has it: the machine's own where it
will do, else User Mode Linux, else QEMU. All of them run a command as root in a network of its own and leave nothing.
"""

from hitless.lab.kernel.choice import Preference, choose, missing
from hitless.lab.kernel.face import TIMED_OUT, Kernel, LabError

__all__ = ["TIMED_OUT", "Kernel", "LabError", "Preference", "choose", "missing"]
