"""Run directory, logging, seeding, checkpoints on disk: what any training project needs, and nothing about parts."""
