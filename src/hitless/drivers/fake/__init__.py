"""An executable kernel in memory and a fault injector that wraps any dataplane."""
