"""Grids of parameters times trials, run resumably on this machine or on a cluster; imports nothing of ours."""
