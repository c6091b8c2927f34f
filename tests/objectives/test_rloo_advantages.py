"""Facts about baselines and advantages, which are known before the step."""

from typing import Any

import numpy as np
import pytest

from rlft_jax.objectives import rloo


class TestBaseline:
    def test_advantages_of_a_prompt_sum_to_zero(self):
        rewards = np.random.default_rng(0).standard_normal((4, 8))
        np.testing.assert_allclose(rloo.leave_one_out(rewards).sum(-1), 0, atol=1e-12)

    def test_a_baseline_never_sees_its_own_reward(self):
        rewards = np.random.default_rng(0).standard_normal((3, 5))
        before = rewards - rloo.leave_one_out(rewards)
        rewards[:, 2] += 100
        after = rewards - rloo.leave_one_out(rewards)
        np.testing.assert_allclose(after[:, 2], before[:, 2], rtol=1e-12)
        np.testing.assert_allclose(np.delete(after - before, 2, 1), 25, rtol=1e-12)

    def test_equal_rewards_teach_nothing(self):
        np.testing.assert_array_equal(rloo.leave_one_out(np.full((2, 4), 0.7)), 0)

    def test_it_is_the_centred_reward_scaled(self):
        rewards = np.random.default_rng(1).standard_normal((3, 4))
        centred = rewards - rewards.mean(-1, keepdims=True)
        np.testing.assert_allclose(rloo.leave_one_out(rewards), 4 / 3 * centred, rtol=1e-12)

    def test_the_example_of_the_blog(self):
        # Hugging Face's, whose k = 4 responses to B = 3 prompts are listed response by response.
        rewards = np.array([1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9, 10.0]).reshape(4, 3).T
        flat = rloo.leave_one_out(rewards).T.ravel()
        np.testing.assert_allclose(flat[[0, 6, 7]], [-4, 4 / 3, 4 / 3], rtol=1e-12)

    def test_one_response_has_nothing_to_be_compared_with(self):
        with pytest.raises(ValueError, match=r"config\.rollout\.responses"):
            rloo.leave_one_out(np.ones((2, 1)))


class TestAdvantages:
    rewards = np.array([[1.0, 0.0], [3.0, -1.0]])
    is_response = np.broadcast_to(np.arange(4) > 0, (2, 2, 4))
    # 9 is the prompt's, and not the policy's to answer for.
    kl = np.array([[[9, 1, 2, 3], [0] * 4], [[0] * 4, [0] * 4]], float)

    def made(self, **settings: Any) -> np.ndarray:
        zeros = np.zeros_like(self.kl)
        return rloo.advantages(self.rewards, self.is_response, self.kl, zeros, **settings)

    def test_every_token_of_a_response_has_its_advantage(self):
        np.testing.assert_array_equal(self.made()[0], [[0, 1, 1, 1], [0, -1, -1, -1]])

    def test_kl_is_a_loss_of_reward(self):
        np.testing.assert_allclose(self.made(kl_weight=0.5)[0, :, 1], [-2, 2])

    def test_kl_after_the_baseline_counts_from_the_token_on(self):
        advantages = self.made(kl_weight=0.5, kl_after_baseline=True)
        np.testing.assert_allclose(advantages[0, 0], [0, 1 - 3, 1 - 2.5, 1 - 1.5])
        np.testing.assert_allclose(advantages[0, 1], [0, -1, -1, -1])

    def test_kl_is_bounded_token_by_token(self):
        np.testing.assert_allclose(self.made(kl_weight=1.0, kl_limit=2.0)[0, :, 1], [-4, 4])

    def test_rewards_are_bounded_before_the_baseline_and_advantages_after(self):
        np.testing.assert_allclose(self.made(reward_clip=2.0)[1, :, 1], [3, -3])
        np.testing.assert_allclose(self.made(advantage_limit=2.0)[1, :, 1], [2, -2])

    def test_normalised_advantages_have_a_deviation_of_one(self):
        each = self.made(normalize=True)[..., 1]
        np.testing.assert_allclose(each.mean(), 0, atol=1e-7)
        np.testing.assert_allclose(each.std(ddof=1), 1, rtol=1e-4)

    def test_processes_are_normalised_together(self):
        rewards = np.random.default_rng(0).standard_normal((4, 2))
        mask = np.ones((4, 2, 3), bool)
        alone = rloo.advantages(rewards, mask, normalize=True)
        everywhere = lambda _: rloo.leave_one_out(rewards)
        halves = [
            rloo.advantages(rewards[part], mask[part], None, None, everywhere, normalize=True)
            for part in (slice(2), slice(2, 4))
        ]
        np.testing.assert_array_equal(np.concatenate(halves), alone)

    def test_equal_rewards_normalised_are_still_nothing(self):
        advantages = rloo.advantages(np.ones((2, 3)), np.ones((2, 3, 4), bool), normalize=True)
        np.testing.assert_array_equal(advantages, 0)
