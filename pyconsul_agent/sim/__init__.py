"""A whole cluster in one test process: virtual time, a seeded network, disks that lose what was not synced.

Start at `world.World`. Everything that happens follows from the seed; the same seed and the same code give the same
`World.digest()`. This room may import every other; nobody imports it.
"""
