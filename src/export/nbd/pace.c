/* SPDX-License-Identifier: BSD-2-Clause */
#include "export/nbd/pace.h"

#include "base/macros.h"

#define TRUST_MAX 16u
#define BACKOFF_MIN 64u
#define BACKOFF_MAX 4096u

/* What the rest that has just ended has brought. */
static void judge(struct weir_nbd_pace *pace, uint64_t requests)
{
    pace->rested = false;
    if (requests >= WEIR_NBD_REST_GAIN) {
        pace->trust = TRUST_MAX;
        pace->backoff = BACKOFF_MIN;
        return;
    }
    if (pace->trust && --pace->trust)
        return;
    pace->waits = pace->backoff;
    pace->backoff = WEIR_MIN(2 * pace->backoff, BACKOFF_MAX);
}

bool weir_nbd_pace_rests(struct weir_nbd_pace *pace, uint64_t requests)
{
    if (!pace->backoff)
        pace->waits = pace->backoff = BACKOFF_MIN; /* no trial with the first requests of a client */
    if (pace->rested)
        judge(pace, requests - pace->before);
    if (!pace->trust && pace->waits) {
        pace->waits--;
        return false;
    }
    pace->rested = true;
    pace->before = requests;
    return true;
}

void weir_nbd_pace_fails(struct weir_nbd_pace *pace)
{
    pace->rested = false;
    pace->trust = 0;
    pace->waits = pace->backoff = BACKOFF_MAX;
}
