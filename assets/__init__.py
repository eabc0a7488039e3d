"""Dagster only: names, lineage, partitions, checks, metadata, jobs, schedules."""
