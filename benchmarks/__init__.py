"""What costs how much: `make speed`. Prints ratios and shares from one run; asserts nothing, times differ."""
