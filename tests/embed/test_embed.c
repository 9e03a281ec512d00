/* SPDX-License-Identifier: BSD-2-Clause */
/* The public functions, as a program with threads of its own uses them. */
#include "../unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <weir/device.h>
#include <weir/library.h>
#include <weir/version.h>

#define SIZE ((uint64_t)1 << 20)

static char path[64];

static int make_file(void **state)
{
    int fd;

    (void)state;
    strcpy(path, "/tmp/weir-embed-XXXXXX");
    fd = mkstemp(path);
    return fd < 0 || ftruncate(fd, SIZE) || close(fd) ? -1 : 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static struct weir_device *open_file(unsigned flags)
{
    char json[256], error[256] = "";
    struct weir_device *device = NULL;

    (void)snprintf(json, sizeof(json),
                   "{\"driver\": \"raw\", \"file\": {\"driver\": \"file\", \"filename\": \"%s\"%s}}", path,
                   flags & WEIR_DEVICE_READ_ONLY ? ", \"read-only\": true" : "");
    if (weir_device_open(json, flags, &device, error, sizeof(error)))
        (void)fprintf(stderr, "%s\n", error);
    assert_non_null(device);
    return device;
}

static void life(void **state)
{
    struct weir_device *device;

    (void)state;
    assert_string_equal(weir_version(), "0.1.0");
    assert_int_equal(weir_done(), -ENODEV);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(weir_init(), 0);
        assert_int_equal(weir_init(), -EBUSY);
        device = open_file(0);
        assert_int_equal(weir_done(), -EBUSY);
        assert_int_equal(weir_device_close(device), 0);
        assert_int_equal(weir_device_close(NULL), 0);
        assert_int_equal(weir_done(), 0);
    }
}

static void expect_open(const char *json, unsigned flags, int expected, const char *text)
{
    struct weir_device *device = (struct weir_device *)&path;
    char error[256] = "";

    assert_int_equal(weir_device_open(json, flags, &device, error, sizeof(error)), expected);
    assert_ptr_equal(device, &path); /* untouched */
    assert_non_null(strstr(error, text));
}

static void opening(void **state)
{
    char small[8];

    (void)state;
    expect_open("{}", 0, -ENODEV, "not ready");
    assert_int_equal(weir_init(), 0);
    expect_open("{", 0, -EINVAL, "JSON parse error");
    expect_open("[]", 0, -EINVAL, "object");
    expect_open("{\"driver\": \"null-co\"}", 8, -EINVAL, "Unknown flags");
    expect_open("{}", 0, -EINVAL, "Parameter 'driver' is missing");
    expect_open("{\"driver\": \"file\", \"filename\": \"/nonexistent/x\"}", 0, -ENOENT, "/nonexistent/x");
    assert_int_equal(weir_device_open("[]", 0, NULL, small, sizeof(small)), -EINVAL);
    assert_int_equal(strlen(small), sizeof(small) - 1);
    assert_int_equal(weir_device_open("[]", 0, NULL, NULL, 0), -EINVAL);
    assert_int_equal(weir_done(), 0);
}

static void requests(void **state)
{
    struct weir_device *device;
    char out[5000], in[5000];

    (void)state;
    assert_int_equal(weir_init(), 0);
    device = open_file(0);
    assert_int_equal(weir_device_size(device), SIZE);
    memset(out, 7, sizeof(out));
    assert_int_equal(weir_device_write_wait(device, 1001, sizeof(out), out, WEIR_DEVICE_FUA), 0);
    assert_int_equal(weir_device_read_wait(device, 1001, sizeof(in), in), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(weir_device_zero_wait(device, 2000, 1000, WEIR_DEVICE_UNMAP | WEIR_DEVICE_FUA), 0);
    assert_int_equal(weir_device_read_wait(device, 1999, 1002, in), 0);
    assert_true(in[0] == 7 && !in[1] && !in[1000] && in[1001] == 7);
    assert_int_equal(weir_device_discard_wait(device, 0, 65536), 0);
    assert_int_equal(weir_device_flush_wait(device), 0);
    assert_int_equal(weir_device_read_wait(device, SIZE - 1, 2, in), -EINVAL);
    assert_int_equal(weir_device_write_wait(device, SIZE - 1, 2, out, 0), -ENOSPC);
    assert_int_equal(weir_device_write_wait(device, 0, 1, out, WEIR_DEVICE_UNMAP), -EINVAL);
    assert_int_equal(weir_device_zero_wait(device, 0, 1, 4), -EINVAL);
    assert_int_equal(weir_device_close(device), 0);
    device = open_file(WEIR_DEVICE_READ_ONLY);
    assert_int_equal(weir_device_write_wait(device, 0, 1, out, 0), -EPERM);
    assert_int_equal(weir_device_read_wait(device, 0, 1, in), 0);
    assert_int_equal(weir_device_close(device), 0);
    assert_int_equal(weir_done(), 0);
}

/* From a completion: further requests, and nothing that would wait for itself. */
struct chain {
    struct weir_device *device;
    char bytes[512];
    unsigned left;
    int results[4];
    sem_t end;
};

static void next(void *arg, int result)
{
    struct chain *chain = arg;

    if (!result && --chain->left) {
        weir_device_write(chain->device, 512ul * chain->left, 512, chain->bytes, 0, next, chain);
        return;
    }
    chain->results[0] = result;
    chain->results[1] = weir_device_flush_wait(chain->device);
    chain->results[2] = weir_device_close(chain->device);
    chain->results[3] = weir_done();
    sem_post(&chain->end);
}

static void completions(void **state)
{
    struct chain chain = { .left = 100 };

    (void)state;
    assert_int_equal(weir_init(), 0);
    chain.device = open_file(0);
    sem_init(&chain.end, 0, 0);
    next(&chain, 0);
    while (sem_wait(&chain.end))
        continue;
    assert_int_equal(chain.results[0], 0);
    assert_int_equal(chain.results[1], -EDEADLK);
    assert_int_equal(chain.results[2], -EDEADLK);
    assert_int_equal(chain.results[3], -EDEADLK);
    assert_int_equal(weir_device_close(chain.device), 0);
    assert_int_equal(weir_done(), 0);
    sem_destroy(&chain.end);
}

/* Close waits for what is under way, and for its completion. */
static void count(void *arg, int result)
{
    if (!result)
        __atomic_fetch_add((unsigned *)arg, 1, __ATOMIC_RELAXED);
}

static void closing(void **state)
{
    static char bytes[4096];
    struct weir_device *device;
    unsigned ended = 0;

    (void)state;
    assert_int_equal(weir_init(), 0);
    assert_int_equal(
        weir_device_open("{\"driver\": \"null-co\", \"latency-ns\": 2000000}", 0, &device, NULL, 0), 0);
    for (unsigned i = 0; i < 2000; i++)
        weir_device_read(device, 4096ul * i, 4096, bytes, count, &ended);
    assert_int_equal(weir_device_close(device), 0);
    assert_int_equal(__atomic_load_n(&ended, __ATOMIC_RELAXED), 2000);
    assert_int_equal(weir_done(), 0);
}

struct worker {
    struct weir_device *device;
    unsigned index;
    unsigned failures;
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    char out[4096], in[4096];

    for (unsigned i = 0; i < 200; i++) {
        uint64_t at = (uint64_t)(i % 50 * 4 + worker->index) * sizeof(out);

        memset(out, (int)(i + worker->index), sizeof(out));
        worker->failures += weir_device_write_wait(worker->device, at, sizeof(out), out, 0) != 0;
        worker->failures += weir_device_read_wait(worker->device, at, sizeof(in), in) != 0;
        worker->failures += memcmp(in, out, sizeof(in)) != 0;
    }
    return NULL;
}

static void threads(void **state)
{
    struct worker workers[4];
    pthread_t ids[4];
    struct weir_device *device;

    (void)state;
    assert_int_equal(weir_init(), 0);
    device = open_file(0);
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){ device, i, 0 };
        assert_int_equal(pthread_create(&ids[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(ids[i], NULL);
        assert_int_equal(workers[i].failures, 0);
    }
    assert_int_equal(weir_device_close(device), 0);
    assert_int_equal(weir_done(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(life),        cmocka_unit_test(opening), cmocka_unit_test(requests),
        cmocka_unit_test(completions), cmocka_unit_test(closing), cmocka_unit_test(threads),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
