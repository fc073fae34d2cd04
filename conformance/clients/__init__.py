"""Clients that others wrote, as they come from their registries, driven against our agent."""
