"""Waveforms of clips: what is kept of them, and what each random view does to one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from headsearch.config.input_shape import InputShape
from headsearch.config.waveform_views import WaveformViews, views_for_waveforms
from headsearch.data.audio.clips import fitted_form
from headsearch.data.audio.decode import Header
from headsearch.data.audio.log_mel import LogMel
from headsearch.data.audio.waveform import Waveform, kept, log_mels, samples
from headsearch.data.audio.waveform_views import (
    faded,
    make_waveform_views,
    mixed,
    noisy,
    resampled,
    without_band,
)
from headsearch.data.domains import DOMAINS, found_domain
from headsearch.data.settings import AudioSettings
from headsearch.errors import UserError
from helpers.clips import RATE, tone

OFF = WaveformViews(
    mixup=0, speed=(1, 1), shift=0, fader=0, band_mask=0, noise=(100, 100), time_mask=0
)
CLIPS = kept(0.3 * torch.randn(6, 1, 1, 800, generator=torch.Generator().manual_seed(1)))


def views(settings: WaveformViews, clips: Tensor = CLIPS, part: tuple[int, int] = (0, 1)) -> Tensor:
    return make_waveform_views(clips, torch.Generator().manual_seed(0), settings, 2, part)


def changed(**settings: object) -> WaveformViews:
    return WaveformViews(**{**vars(OFF), **settings})  # type: ignore[arg-type]


def test_a_waveform_is_kept_as_16_bit_pcm() -> None:
    exact = torch.tensor([0, 1, -1, 255, 256, -256, 32767, -32768]) / 32768
    pcm = kept(exact.view(1, 1, 1, -1))
    assert pcm.shape == (1, 2, 1, 8)
    assert pcm[0, :, 0].T.contiguous().numpy().view("<i2").ravel().tolist() == [
        0, 1, -1, 255, 256, -256, 32767, -32768,
    ]  # fmt: skip
    assert torch.equal(samples(pcm).flatten(), exact)
    beyond = kept(torch.tensor([2.0, -2.0]).view(1, 1, 1, -1))
    assert samples(beyond).flatten().tolist() == [32767 / 32768, -1.0]


def test_rate_and_length_are_those_of_log_mel_maps() -> None:
    headers = [Header(8000, 800 * n, 1) for n in range(1, 11)]
    how = fitted_form(headers, AudioSettings(waveforms=True))
    maps = fitted_form(headers, AudioSettings())
    assert isinstance(how, Waveform)
    assert isinstance(maps, LogMel)
    assert (how.sample_rate, how.clip_seconds, how.length) == (8000, 0.96, maps.length)
    assert how.shape == InputShape.waveform(7680, 8000)
    assert how.of(np.zeros(7680, np.float32)).shape == how.shape.tensor


@pytest.mark.parametrize("rate", [RATE, 11025, 2000])
def test_the_baseline_without_learning_is_that_of_log_mel_maps(rate: int) -> None:
    how = Waveform(rate, 0.48)
    waveform = tone(440, how.length / rate, rate).astype(np.float32)[: how.length]
    clips = torch.from_numpy(how.of(waveform))[None]
    found = DOMAINS["audio"].raw([clips, clips], how.shape)
    assert found.shape[0] == 2
    (map_1MW,) = next(iter(log_mels([clips], how.shape)))
    log_mel = LogMel(rate, 0.48, mels=map_1MW.shape[1])
    direct = torch.from_numpy(log_mel.of(waveform))
    assert (map_1MW.int() - direct.int()).abs().float().mean() < 1  # 16 bits in place of 24
    want = DOMAINS["audio"].raw([map_1MW[None]], log_mel.shape)
    assert torch.equal(found[:1], want)


def test_without_augmentations_a_view_is_the_waveform() -> None:
    torch.testing.assert_close(views(OFF), torch.stack([samples(CLIPS)] * 2), atol=3e-5, rtol=0)


def test_views_are_a_function_of_the_generator_alone() -> None:
    assert torch.equal(views(WaveformViews()), views(WaveformViews()))
    first, second = views(WaveformViews())
    assert not torch.equal(first, second)
    assert views(WaveformViews()).isfinite().all()
    assert views(WaveformViews(), torch.zeros_like(CLIPS)).abs().max() == 0


def test_views_ask_the_host_for_no_value() -> None:
    clips = torch.zeros(3, 2, 1, 801, dtype=torch.uint8, device="meta")
    found = make_waveform_views(clips, None, WaveformViews(), 2, (0, 1))
    assert found.shape == (2, 3, 1, 1, 801)


def test_parts_of_a_batch_get_the_views_of_the_whole_but_for_what_is_mixed_in() -> None:
    settings = WaveformViews(mixup=0)
    parts = [views(settings, CLIPS[3 * p : 3 * p + 3], (p, 2)) for p in (0, 1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), views(settings))


def test_mixing_adds_the_powers_of_unrelated_sounds() -> None:
    own = torch.from_numpy(tone(500, 1)).view(1, 1, 1, -1)
    other = torch.from_numpy(tone(800, 1, level=0.2)).view(1, 1, 1, -1)
    found = mixed(own, other, torch.tensor([0.25], dtype=torch.float64))
    power = 0.75 * own.square().mean() + 0.25 * other.square().mean()
    torch.testing.assert_close(found.square().mean(), power)


def test_speed_changes_the_pitch_and_a_shift_lets_silence_in() -> None:
    sound = torch.from_numpy(tone(400, 1)).float().view(1, 1, 1, -1)
    fast = resampled(sound, torch.tensor([1.1]), torch.zeros(1)).flatten()
    assert torch.fft.rfft(fast).abs().argmax() == pytest.approx(440, abs=1)
    heard = fast.abs() > 1e-6
    assert heard.float().mean() == pytest.approx(1 / 1.1, abs=0.01)
    later = resampled(sound, torch.ones(1), torch.tensor([-100.0])).flatten()
    assert later[:100].abs().max() == 0
    torch.testing.assert_close(later[100:], sound.flatten()[:-100])


def test_values_between_samples_are_interpolated() -> None:
    ramp = torch.arange(9.0).view(1, 1, 1, -1)
    found = resampled(ramp, torch.ones(1), torch.tensor([2.25])).flatten()
    torch.testing.assert_close(found[:6], ramp.flatten()[:6] + 2.25)


def test_a_fader_goes_linearly_in_decibel_from_one_gain_to_another() -> None:
    gains = faded(torch.ones(1, 1, 1, 5), torch.tensor([[-20.0, 20.0]])).flatten()
    torch.testing.assert_close(20 * gains.log10(), torch.tensor([-20.0, -10.0, 0.0, 10.0, 20.0]))


def test_a_band_is_taken_out_and_the_rest_stays() -> None:
    low, high = (torch.from_numpy(tone(hertz, 1)).float() for hertz in (100, 3000))
    both = (low + high).view(1, 1, 1, -1)
    found = without_band(both, torch.tensor([0.3]), torch.tensor([0.0])).flatten()
    torch.testing.assert_close(found, high, atol=1e-4, rtol=0)
    found = without_band(both, torch.tensor([0.3]), torch.tensor([1.0])).flatten()
    torch.testing.assert_close(found, low, atol=1e-4, rtol=0)


def test_noise_has_the_ratio_that_is_asked_for() -> None:
    sound = torch.from_numpy(tone(400, 1)).float().view(1, 1, 1, -1)
    noise = torch.randn(sound.shape, generator=torch.Generator().manual_seed(0))
    added = noisy(sound, noise, torch.tensor([20.0])) - sound
    ratio = 10 * math.log10(sound.square().mean() / added.square().mean())
    assert ratio == pytest.approx(20, abs=0.2)


def test_masks_silence_at_most_their_share_of_the_time() -> None:
    loud = kept(torch.full((200, 1, 1, 100), 0.5))
    hidden = (views(changed(time_mask=0.5), loud).abs() < 1e-3).float().mean(dim=-1)
    assert hidden.max() <= 0.5
    assert 0.2 < hidden.mean() < 0.3


def test_a_setting_is_read_back_from_its_text() -> None:
    asked = views_for_waveforms("published,mixup=0.2,speed=0.8/1.2,noise=5/20")
    assert asked == WaveformViews(mixup=0.2, speed=(0.8, 1.2), noise=(5.0, 20.0))
    assert views_for_waveforms(str(asked)) == asked
    assert views_for_waveforms("auto") == WaveformViews()
    with pytest.raises(UserError, match="speed must be low/high"):
        views_for_waveforms("speed=2/1")
    with pytest.raises(UserError, match="no setting 'time_scale'"):
        views_for_waveforms("time_scale=1/1")


def test_a_base_of_waveforms_means_clips() -> None:
    assert found_domain("scenes", "hf:wav2vec2") == found_domain("x.csv", "hf:hubert") == "audio"
    assert found_domain("clips", "hf:bert") == "text"
