"""The speed of this machine on sslcut's hot paths, each beside its reference and its peers in the same run.

A part is one file with one generator, entered in `registry.BENCHES`. It makes its data, and yields contests; what
a contest needs is dropped when the generator goes on:

    def views(setting: Setting) -> Iterator[Event | Contest]:
        \"""Two SimCLR views of a batch, against the batched augmentations of kornia and stable-pretraining.\"""
        device = setting.open_device()  # imports torch, sets the threads
        pixels = …  # `setting.scaled(256)` images, so that --scale makes it smaller
        yield Contest(
            "two SimCLR views, 32 px, batch 256",
            [
                Contender("sslcut", lambda: make(pixels), note="float32"),  # the first one is judged
                Contender("torchvision", lambda: …, role="reference"),  # comes with sslcut, so it is always measured
                peer("kornia", lambda: kornia_views(pixels)),  # imported here alone; said to be absent where it is
            ],
            goals=[Ratio("at least", 3, "peer")],  # times as fast as the fastest of them
            count=256,
            unit="images",
            settle=partial(synchronise, device),
        )

where `kornia_views` imports kornia and returns `Contender("kornia", …, role="peer")`. Whole processes are timed by
`processes.spent`. Modules of this room import peers inside functions only; torch may be imported at the top of a part.
"""
