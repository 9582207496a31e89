"""Runs `benchmarks.quality.run`, a module of its own so that the processes it spawns find it."""

from benchmarks.quality.run import main

if __name__ == "__main__":
    main()
