"""The protocols: how a game is played, one class each. `register_protocol` adds more.

Nothing is imported here, so that listing the names stays fast. The base class is in `bench.game.protocols.protocol`.
"""

#: by name: its class, and a summary
BUILT_IN = {
    "stream": ("bench.game.protocols.stream:Stream", "every point is attacked and served in order"),
    "probe": ("bench.game.protocols.probe:Probe", "victims are answered from one state, after a background"),
    "poison": ("bench.game.protocols.poison:Poison", "the attacker sends among other users, whose answers are judged"),
    "replay": ("bench.game.protocols.replay:Replay", "all is crafted before, then served once to a fresh defense"),
}
