"""Figures with matplotlib: functions take results and draw them, they compute nothing."""
