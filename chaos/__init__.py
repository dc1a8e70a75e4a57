"""What holds when things fail: ``python -m chaos`` injects faults into real workers and compares every table with the
figures that follow from what was sent."""
