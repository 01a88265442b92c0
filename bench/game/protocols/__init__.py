"""The protocols: how a game is played, one class each. `register_protocol` adds more.

Nothing is imported here, so that listing what exists stays cheap; the base class is `bench.game.protocols.protocol`.
"""

#: by name: where it is, and what it does
BUILT_IN = {
    "stream": ("bench.game.protocols.stream:Stream", "every point is attacked and served in order"),
    "probe": ("bench.game.protocols.probe:Probe", "victims are answered from one state, after a background"),
    "replay": ("bench.game.protocols.replay:Replay", "all is crafted before, then served once to a fresh defense"),
}
