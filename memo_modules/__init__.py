"""MEMO as a library: networks, conditioning and sampler. It imports no ComfyUI and nothing heavy until used.

Dimension letters used throughout: ``b`` batch (guidance branches, unconditional first), ``f`` frames of a clip,
``n`` past frames, ``c h w`` channels and picture, ``t`` tokens, ``d`` token channels.

Glossary:
    clip: 16 frames that are generated together; a video is made clip by clip.
    guidance branch: one of the two predictions that classifier-free guidance combines: unconditional (without face, audio and emotion) and
        conditional.
    past frames: those of the clip before that the next one attends to; copies of the portrait at the start of a video.
    motion memory: a decaying sum over all past frames, in every motion module, from which linear attention reads.
    reference features: what the reference net makes of the portrait and of the past frames; the diffusion net attends to them.
    face context: the identity (insightface's embedding) as four tokens, to which the spatial transformers attend.
    waveform: sound as samples, ``Audio``.
    audio features: wav2vec2's states of the voice, one set per frame, ``AudioFeatures``; what the lips follow.
    emotion track: the mood over time, ``EmotionTrack``; one label per clip steers the diffusion net.
    latents: pictures as the VAE encodes them, an eighth of the size, four channels; what is sampled.
    portrait: the one picture that speaks, (1 3 H W) in [-1, 1].
    state: what it takes to continue a video after its last clip, ``VideoState``.
    low-memory mode: the guidance branches one after the other, and the motion memory in RAM instead of VRAM; the same frames.
"""

__version__ = "0.1.0"
