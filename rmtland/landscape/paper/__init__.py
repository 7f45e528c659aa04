"""The paper's figures as computations; `rmtland.plots.landscape` draws them."""
