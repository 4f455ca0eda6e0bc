"""Audio conditioning: waveforms in, wav2vec2 states at video rate and emotions over time out."""
