"""Papyan (2018), The full spectrum of deepnet Hessians at scale: what its appendix shows on synthetic matrices."""
