# What `import rmtland as rl` offers; lazy_loader reads this file, type checkers too.
