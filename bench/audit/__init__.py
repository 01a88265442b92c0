"""The battery of attacks and checks that `bench audit` plays: is the number of a defense to be believed?"""

from bench.audit.audit import Audit, Player, prepare

__all__ = ["Audit", "Player", "prepare"]
