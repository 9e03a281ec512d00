/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random numbers: xoshiro256**, seeded through splitmix64 (both are in the public domain, by Blackman and Vigna).
 */
#include "sys/sim/world.h"

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

void sim_random_init(struct sim_random *random, uint64_t seed, uint64_t stream)
{
    uint64_t state = seed;

    state = splitmix(&state) ^ (stream * 0xd1342543de82ef95ull);
    for (unsigned i = 0; i < 4; i++)
        random->state[i] = splitmix(&state);
}

static inline uint64_t rotate(uint64_t value, unsigned bits)
{
    return (value << bits) | (value >> (64 - bits));
}

uint64_t sim_random_next(struct sim_random *random)
{
    uint64_t *s = random->state;
    uint64_t result = rotate(s[1] * 5, 7) * 9, shifted = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate(s[3], 45);
    return result;
}

uint64_t sim_random_below(struct sim_random *random, uint64_t n)
{
    /* The bias is at most n / 2^64: nothing that a test could see. */
    return (uint64_t)(((unsigned __int128)sim_random_next(random) * n) >> 64);
}

bool sim_chance(enum sim_stream stream, uint32_t ppm)
{
    if (ppm == 0)
        return false;
    return ppm >= WEIR_SIM_ALWAYS || sim_below(stream, WEIR_SIM_ALWAYS) < ppm;
}

int64_t sim_latency(enum sim_stream stream, const struct weir_sim_latency *latency)
{
    if (sim_chance(stream, latency->spike_ppm))
        return latency->spike_ns;
    return latency->min_ns + (int64_t)sim_below(stream, 2 * (uint64_t)latency->mean_ns + 1);
}
