"""The processes of a run: distributed set-up, interrupts, watchdog, environment."""
