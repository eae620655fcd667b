"""Evaluations and attacks for people: text for the terminal, and pages."""
