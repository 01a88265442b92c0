"""The battery of attacks and checks that `bench audit` plays: is the number of a defense to be believed?"""

from bench.auditing.audit import Audit, Player, play, prepare

__all__ = ["Audit", "Player", "play", "prepare"]
