/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Open-file-description locks: ranges of a file, owned by a description, gone with it.
 */
#include "sys/sim/file.h"
#include <errno.h>
#include <fcntl.h>

static bool overlaps(const struct sim_lock *lock, uint64_t start, uint64_t end)
{
    return lock->start < end && start < lock->end;
}

static bool conflicts(const struct weir_sim_file *file, const struct sim_open *owner, enum weir_sys_lock kind,
                      uint64_t start, uint64_t end)
{
    const struct sim_lock *lock;

    TAILQ_FOREACH (lock, &file->locks, link) {
        if (lock->owner != owner && overlaps(lock, start, end) &&
            (kind == WEIR_SYS_LOCK_EXCLUSIVE || lock->kind == WEIR_SYS_LOCK_EXCLUSIVE))
            return true;
    }
    return false;
}

static void add(struct weir_sim_file *file, struct sim_open *owner, enum weir_sys_lock kind, uint64_t start,
                uint64_t end)
{
    struct sim_lock *lock;

    if (start >= end)
        return;
    lock = weir_new(struct sim_lock);
    *lock = (struct sim_lock){ .owner = owner, .kind = kind, .start = start, .end = end };
    /* In front: a walk that is cutting does not meet it again. */
    TAILQ_INSERT_HEAD(&file->locks, lock, link);
}

/* Takes [start, end) out of what @owner holds; what sticks out on either side stays. */
static void cut_out(struct weir_sim_file *file, struct sim_open *owner, uint64_t start, uint64_t end)
{
    struct sim_lock *lock = TAILQ_FIRST(&file->locks);

    while (lock) {
        struct sim_lock *next = TAILQ_NEXT(lock, link);

        if (lock->owner == owner && overlaps(lock, start, end)) {
            add(file, owner, lock->kind, lock->start, start);
            add(file, owner, lock->kind, end, lock->end);
            TAILQ_REMOVE(&file->locks, lock, link);
            free(lock);
        }
        lock = next;
    }
}

void sim_locks_drop(struct weir_sim_file *file, const struct sim_open *owner)
{
    struct sim_lock *lock = TAILQ_FIRST(&file->locks);

    while (lock) {
        struct sim_lock *next = TAILQ_NEXT(lock, link);

        if (!owner || lock->owner == owner) {
            TAILQ_REMOVE(&file->locks, lock, link);
            free(lock);
        }
        lock = next;
    }
}

static uint64_t range_end(uint64_t start, uint64_t length)
{
    return length ? start + length : UINT64_MAX;
}

static struct sim_open *enter(int fd, int *ret_result)
{
    struct sim_open *open = sim_descriptor(fd);

    *ret_result = -EBADF;
    if (!open || open->type != SIM_OPEN_FILE)
        return NULL;
    *ret_result = sim_file_control(open->file, open);
    /* The call took time: the descriptor may have been closed meanwhile. */
    if (!*ret_result && sim_descriptor(fd) != open)
        *ret_result = -EBADF;
    return open;
}

int sim_file_lock(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length)
{
    uint64_t end = range_end(start, length);
    int result, access;
    struct sim_open *open = enter(fd, &result);

    if (result)
        return result;
    access = open->flags & O_ACCMODE;
    if ((kind == WEIR_SYS_LOCK_EXCLUSIVE && access == O_RDONLY) ||
        (kind == WEIR_SYS_LOCK_SHARED && access == O_WRONLY))
        return -EBADF;
    if (kind != WEIR_SYS_UNLOCK && conflicts(open->file, open, kind, start, end))
        return -EAGAIN;
    cut_out(open->file, open, start, end);
    if (kind != WEIR_SYS_UNLOCK)
        add(open->file, open, kind, start, end);
    sim_trace("lock", open->file->id, kind, start);
    return 0;
}

int sim_file_lock_test(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length)
{
    int result;
    struct sim_open *open = enter(fd, &result);

    return result ? result : conflicts(open->file, open, kind, start, range_end(start, length));
}
