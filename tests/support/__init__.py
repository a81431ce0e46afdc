"""What tests share: definitions to compare with, inputs and checks, and programs that tests start."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the project."""
