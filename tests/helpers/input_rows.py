"""What try_inputs.py hands to nodes, and what test_inputs.py expects them to say."""

NAN = float("nan")

INPUTS = {
    "model of core": ("MemoSampler", "model", lambda torch: torch.nn.Linear(1, 1), "model: expected MEMO_MODEL from Load MEMO Model, got Linear."),
    "model by its name": ("MemoSampler", "model", lambda torch: "tiny", "model: expected MEMO_MODEL from Load MEMO Model, got 'tiny'."),
    "one model for all": (
        "MemoTalkingPortrait",
        "models",
        lambda torch: torch.nn.Linear(1, 1),
        "models: expected MEMO_MODELS from Load All MEMO Models, got Linear.",
    ),
    "no VAE": ("MemoSampler", "vae", lambda torch: {"samples": 1}, "vae: expected VAE from Load MEMO VAE, got dict."),
    "a file's name as picture": ("MemoSampler", "image", lambda torch: "me.png", "image: expected IMAGE from Load Image, got 'me.png'."),
    "latents as picture": (
        "MemoSampler",
        "image",
        lambda torch: {"samples": torch.zeros(1, 4, 8, 8)},
        "image: expected IMAGE from Load Image, got dict.",
    ),
    "picture as face": (
        "MemoSampler",
        "face",
        lambda torch: torch.zeros(1, 64, 64, 3),
        "face: expected MEMO_FACE from MEMO Embed Face, got a tensor of shape [1, 64, 64, 3].",
    ),
    "sound as features": (
        "MemoSampler",
        "audio",
        lambda torch: {"waveform": torch.zeros(1, 1, 9), "sample_rate": 9},
        "audio: expected MEMO_AUDIO from MEMO Encode Audio, got dict.",
    ),
    "emotion in words": (
        "MemoSampler",
        "emotion",
        lambda torch: "happy",
        "emotion: expected MEMO_EMOTION from MEMO Detect Emotion, MEMO Set Emotion or MEMO Emotion Timeline, got 'happy'.",
    ),
    "sampler in words": ("MemoSampler", "sampler", lambda torch: "euler", "sampler: expected SAMPLER from KSamplerSelect, got 'euler'."),
    "sigmas in a list": ("MemoSampler", "sigmas", lambda torch: [1.0, 0.0], "sigmas: expected SIGMAS from a scheduler node, got list."),
    "width of a link": ("MemoSampler", "width", lambda torch: 4096, "width: expected a whole number from 64 to 2048, got 4096."),
    "width NaN": ("MemoSampler", "width", lambda torch: NAN, "width: expected a whole number from 64 to 2048, got nan."),
    "half a step": ("MemoSampler", "steps", lambda torch: 19.5, "steps: expected a whole number from 1 to 1000, got 19.5."),
    "no steps": ("MemoSampler", "steps", lambda torch: 0, "steps: expected a whole number from 1 to 1000, got 0."),
    "steps in words": ("MemoSampler", "steps", lambda torch: "20", "steps: expected a whole number from 1 to 1000, got '20'."),
    "guidance NaN": ("MemoSampler", "guidance_scale", lambda torch: NAN, "guidance_scale: expected a number from 0.0 to 100.0, got nan."),
    "guidance negative": ("MemoSampler", "guidance_scale", lambda torch: -1, "guidance_scale: expected a number from 0.0 to 100.0, got -1."),
    "guidance 1000": ("MemoSampler", "guidance_scale", lambda torch: 1e3, "guidance_scale: expected a number from 0.0 to 100.0, got 1000.0."),
    "seed too long": (
        "MemoSampler",
        "seed",
        lambda torch: 2**64,
        "seed: expected a whole number from 0 to 18446744073709551615, got 18446744073709551616.",
    ),
    "another order": (
        "MemoSampler",
        "reference_order",
        lambda torch: "random",
        "reference_order: expected one of upstream, aligned, got 'random'.",
    ),
    "memory mode of a link": ("MemoSampler", "memory_mode", lambda torch: 3, "memory_mode: expected text, got 3."),
    "fps 7": ("MemoEncodeAudio", "fps", lambda torch: 7, "fps: expected a number from 8.0 to 60.0, got 7."),
    "fps NaN": ("MemoEncodeAudio", "fps", lambda torch: NAN, "fps: expected a number from 8.0 to 60.0, got nan."),
    "encoder of core": (
        "MemoEncodeAudio",
        "audio_encoder",
        lambda torch: torch.nn.Identity(),
        "audio_encoder: expected MEMO_AUDIO_ENCODER from Load MEMO Audio Encoder, got Identity.",
    ),
    "waveform alone": (
        "MemoEncodeAudio",
        "audio",
        lambda torch: torch.zeros(1, 1, 16000),
        "audio: expected AUDIO from Load Audio, got a tensor of shape [1, 1, 16000].",
    ),
    "sound without a rate": (
        "MemoEncodeAudio",
        "audio",
        lambda torch: {"waveform": torch.zeros(1, 1, 16000)},
        "audio: sample_rate: expected a number of samples per second, got nothing. Look at the node that made it.",
    ),
    "a rate without a sound": (
        "MemoEncodeAudio",
        "audio",
        lambda torch: {"sample_rate": 16000},
        "audio: waveform: expected a tensor (1, channels, samples), got nothing. Look at the node that made it.",
    ),
    "a rate in words": (
        "MemoSplitAudio",
        "sound",
        lambda torch: {"waveform": torch.zeros(1, 1, 16000), "sample_rate": "16 kHz"},
        "sound: sample_rate: expected a number of samples per second, got '16 kHz'. Look at the node that made it.",
    ),
    "samples of numpy": (
        "MemoSeparateVocals",
        "audio",
        lambda torch: {"waveform": torch.zeros(1, 1, 16000).numpy(), "sample_rate": 16000},
        "audio: waveform: expected a tensor (1, channels, samples), got ndarray. Look at the node that made it.",
    ),
    "a batch of a batch": (
        "MemoSeparateVocals",
        "audio",
        lambda torch: {"waveform": torch.zeros(1, 1, 1, 16000), "sample_rate": 16000},
        "audio: waveform: expected one, of shape (1, channels, samples), got shape [1, 1, 1, 16000]. Pass one clip at a time.",
    ),
    "channels and samples swapped": (
        "MemoEncodeAudio",
        "audio",
        lambda torch: {"waveform": torch.zeros(16000, 2), "sample_rate": 16000},
        "audio: expected at most 64 channels, got 16000 of 2 samples. Are channels and samples swapped?",
    ),
    "sound of two takes": (
        "MemoEncodeAudio",
        "audio",
        lambda torch: {"waveform": torch.zeros(2, 1, 16000), "sample_rate": 16000},
        "audio: waveform: expected one, of shape (1, channels, samples), got shape [2, 1, 16000]. Pass one clip at a time.",
    ),
    "nothing as voice": ("MemoDetectEmotion", "audio", lambda torch: None, "audio: expected AUDIO from Load Audio, got nothing."),
    "another source": ("MemoDetectEmotion", "emotion_source", lambda torch: "both", "emotion_source: expected one of audio, vocals, got 'both'."),
    "another emotion": (
        "MemoSetEmotion",
        "emotion",
        lambda torch: "bored",
        "emotion: expected one of angry, disgusted, fearful, happy, neutral, other, sad, surprised, unknown, got 'bored'.",
    ),
    "moods that overlap": (
        "MemoEmotionTimeline",
        "timeline",
        lambda torch: "0-5 happy, 3-7 sad",
        'timeline: "0-5 happy" and "3-7 sad" overlap. Move a border or remove one of them.',
    ),
    "separator for faces": (
        "MemoEmbedFace",
        "face_analysis",
        lambda torch: torch.nn.Identity(),
        "face_analysis: expected MEMO_FACE_ANALYSIS from Load MEMO Face Analysis, got Identity.",
    ),
    "face -1": ("MemoEmbedFace", "index", lambda torch: -1, "index: expected a whole number from 0 to 99, got -1."),
    "yes": ("MemoEmbedFace", "allow_no_face", lambda torch: "yes", "allow_no_face: expected true or false, got 'yes'."),
    "picture 0 to 255": (
        "MemoEmbedFace",
        "image",
        lambda torch: torch.full((1, 64, 64, 3), 255.0),
        "image: expected values in [0, 1], got 255 to 255. Look at the node that made this picture.",
    ),
    "a box for a crop": (
        "MemoPasteBack",
        "crop",
        lambda torch: (0, 0, 64, 64),
        "crop: expected MEMO_CROP from MEMO Crop Portrait, got tuple.",
    ),
    "margin NaN": ("MemoCropPortrait", "margin", lambda torch: NAN, "margin: expected a number from 0.0 to 2.0, got nan."),
    "feather 2": ("MemoPasteBack", "feather", lambda torch: 2, "feather: expected a number from 0.0 to 0.5, got 2."),
    "another photo": (
        "MemoPasteBack",
        "photo",
        lambda torch: torch.zeros(1, 64, 96, 3),
        "photo: expected the picture that was cropped, 64 x 64 pixels, got 96 x 64. Connect the same photo to both nodes.",
    ),
    "weights in words": (
        "MemoLoadModel",
        "weight_dtype",
        lambda torch: "int4",
        "weight_dtype: expected one of auto, bf16, fp16, fp32, fp8_e4m3fn, fp16_fp32, fp8_e4m3fn_scaled, int8_scaled, got 'int4'.",
    ),
    "a number for a name": ("MemoLoadModel", "model", lambda torch: 7, "model: expected text, got 7."),
}
"""Name to node, input, what makes the value of torch, and the sentence."""

NAMES = {
    ("MemoLoadModel", "model"): "tiny",
    ("MemoLoadVAE", "vae"): "sd-vae-ft-mse",
    ("MemoLoadAudioEncoder", "audio_encoder"): "wav2vec2-base-960h",
    ("MemoLoadEmotionModel", "emotion2vec"): "emotion2vec_plus_large",
    ("MemoLoadEmotionModel", "classifier"): "tiny",
    ("MemoLoadVocalSeparator", "vocal_separator"): "tiny",
    ("MemoLoadFaceAnalysis", "face_analysis"): "tiny",
    ("MemoLoadAll", "model"): "tiny",
    ("MemoLoadAll", "vae"): "sd-vae-ft-mse",
    ("MemoLoadAll", "audio_encoder"): "wav2vec2-base-960h",
    ("MemoLoadAll", "emotion2vec"): "emotion2vec_plus_large",
    ("MemoLoadAll", "classifier"): "tiny",
    ("MemoLoadAll", "vocal_separator"): "tiny",
    ("MemoLoadAll", "face_analysis"): "tiny",
}
"""Widgets that take a name, and one that is there."""


LEAVES = "filename_prefix: expected the beginning of a file name inside ComfyUI's output folder, such as video/MEMO, got {!r}."
UNWRITABLE = "filename_prefix: expected letters and signs that a file name can hold, got control characters or half an emoji in {}."
ELSEWHERE = (
    "../out",
    "/tmp/out",
    "video/../../out",
    "video/..",
    "video/",
    "",
    "..",
    "a\\..\\..\\b",
)
LINK = "filename_prefix: 'linked' in ComfyUI's output folder is a link that leads out of it. Choose a folder that is none."
PREFIXES = {
    "linked/out": LINK,
    "linked/deeper/out": LINK,
    **{prefix: LEAVES.format(prefix) for prefix in ELSEWHERE},
    "a" * 300: f"filename_prefix: cannot create a file named '{'a' * 75} ... in ComfyUI's output folder (File name too long).",
    f"{'b' * 300}/MEMO": f"filename_prefix: cannot create a file named '{'b' * 75} ... in ComfyUI's output folder (File name too long).",
    "half \ud83d/MEMO": UNWRITABLE.format(r"'half \ud83d/MEMO'"),
    "byte \udcff": UNWRITABLE.format(r"'byte \udcff'"),
    "bell \x07": UNWRITABLE.format(r"'bell \x07'"),
    "video/MEMO\0": UNWRITABLE.format(r"'video/MEMO\x00'"),
    "file/MEMO": "filename_prefix: cannot create a file named 'file/MEMO' in ComfyUI's output folder (Not a directory).",
    "MEMO": "nothing",
    "new/%year%/MEMO ü 声": "nothing",
}
"""Beginnings of names of new files to what is said; ``linked`` leads out of the output folder, ``file`` is a file in it."""


def widget_names(good: str, outside: str) -> list[str]:
    """Names that would lead elsewhere if they were joined to a folder; the model that lies there can be loaded."""
    return [
        f"../outside/{good}",
        f"../../outside/{good}",
        f"../../../{outside}/{good}",
        f"{outside}/{good}",
        f"file://{outside}/{good}",
        f"..\\outside\\{good}",
        f"C:\\models\\{good}",
        f"\\\\server\\share\\{good}",
        f"{good}/..",
        f"{good}/../{good}",
        f"./{good}",
        f"{good}/",
        f"{good}\0",
        f"{good}\0.safetensors",
        f" {good}",
        f"{good}\n",
        "%2e%2e/outside",
        "~",
        "$HOME",
        "..",
        ".",
        "/",
        "",
        "a" * 5000,
    ]
