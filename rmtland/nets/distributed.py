# Point 6 (torch.distributed) of issue 11 is being written by another colleague in lane `distributed`, from the integrator.
# Lane `statistics`: leave it out of your work, and do not commit this file. Your `finish`/`merge` should only keep to source.reduce.
