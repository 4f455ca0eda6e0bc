"""config.json and preprocessor_config.json of small audio encoders that are built as wav2vec2-base is."""

from typing import Any

PREPROCESSOR = {
    "do_normalize": True,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


def config(channels: int, width: int, layers: int, **more: Any) -> dict[str, Any]:
    """channels: of the convolutions. width: of the states. more: further options, such as the architectures."""
    return {
        "model_type": "wav2vec2",
        "conv_bias": False,
        "conv_dim": [channels] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "do_stable_layer_norm": False,
        "feat_extract_activation": "gelu",
        "feat_extract_norm": "group",
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_conv_pos_embedding_groups": 16,
        "num_conv_pos_embeddings": 128,
        "num_feat_extract_layers": 7,
        "num_hidden_layers": layers,
        "vocab_size": 32,
        **more,
    }
