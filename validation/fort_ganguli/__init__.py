"""Claims of Fort and Ganguli (2019), Emergent properties of the local geometry of neural loss landscapes."""
