"""The header's chips: what the machine has, or the fix for what it lacks."""

from __future__ import annotations

from app.system import cards
from trainer.devices import Card, Driver

CARD = Card("GPU-1", "NVIDIA GeForce RTX 4090", total_mib=24_564, used_mib=9_400, celsius=61, compute_capability="8.9")


def test_a_card_tells_its_memory_and_temperature() -> None:
    (chip,) = cards(Driver("560.1", (CARD,)), "2.13.0", "linux")
    assert (chip["text"], chip["state"]) == ("RTX 4090  9.2 / 24 GiB  61 °C", "ok")


def test_without_a_driver_the_hint_says_why_and_what_to_do() -> None:
    (chip,) = cards(Driver(problem="Driver Not Loaded"), "2.13.0", "linux")
    assert chip["state"] == "off"
    assert "install NVIDIA's driver (Driver Not Loaded)" in chip["hint"]


def test_a_torch_without_cuda_beside_a_card_is_warned_of_with_the_command() -> None:
    driver = Driver("560.1", (CARD,))
    assert "`pip install --force-reinstall torch`" in cards(driver, "2.13.0+cpu", "linux")[0]["hint"]
    assert "--index-url https://download.pytorch.org/whl/cu" in cards(driver, "2.13.0", "win32")[0]["hint"]
    assert cards(driver, "2.13.0+cu130", "win32")[0]["state"] == "ok"
