"""Bundles: finished runs as one file that others can check and add to their database.

archive    the zip: what may stand in it, and how much
manifest   the form of `manifest.json` and of a row, as pydantic models
pack       from a database to a bundle
check      from a bundle to checked values: nothing in it is believed, and none of its code is run
replay     its games once more, with the attack
merge      from checked values to a database
"""
