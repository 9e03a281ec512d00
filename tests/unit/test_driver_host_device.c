/* SPDX-License-Identifier: BSD-2-Clause */
/* host_device on a loop device; says so and passes where this machine or user cannot make one. */
#include "driver_world.h"
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

static char device[64];
static char backing[4200];
static int device_fd = -1;

/* Attaches a free loop device to a new file. */
static bool make_device(uint64_t size, int byte)
{
    int control = open("/dev/loop-control", O_RDWR), file, number;

    if (control < 0)
        return false;
    number = ioctl(control, LOOP_CTL_GET_FREE);
    (void)close(control);
    (void)snprintf(device, sizeof(device), "/dev/loop%d", number);
    (void)snprintf(backing, sizeof(backing), "%s", make_file(path("backing"), size, byte));
    device_fd = number < 0 ? -1 : open(device, O_RDWR);
    file = open(backing, O_RDWR);
    if (device_fd < 0 || file < 0 || ioctl(device_fd, LOOP_SET_FD, file) < 0) {
        (void)fprintf(stderr, "no loop device: not tested\n");
        (void)close(file);
        return false;
    }
    (void)close(file);
    return true;
}

static void remove_device(void)
{
    WEIR_ASSERT(!ioctl(device_fd, LOOP_CLR_FD));
    (void)close(device_fd);
}

static weir_co_fn void transfers(const char *options)
{
    struct weir_edge *edge;
    struct weir_node *node;

    if (!make_device(4 * MIB, 1))
        return;
    node =
        add("{'driver':'host_device','node-name':'h','filename':'%s','discard':'unmap'%s}", device, options);
    edge = user(node, R | W, ALL);
    WEIR_ASSERT(weir_node_size(node) == 4 * MIB && holds(edge, 0, 4 * MIB, 1));
    fill(edge, 100, 10000, 2);
    WEIR_ASSERT(holds(edge, 99, 1, 1) && holds(edge, 100, 10000, 2) && holds(edge, 10100, 412, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 5000, MIB, NULL, 0));
    WEIR_ASSERT(holds(edge, 4999, 1, 2) && holds(edge, 5000, MIB, 0) && holds(edge, MIB + 5000, 1, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 2 * MIB, MIB, NULL, WEIR_REQUEST_MAY_UNMAP) &&
                holds(edge, 2 * MIB, MIB, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 0, MIB, NULL, WEIR_REQUEST_NO_FALLBACK) == -ENOTSUP);
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 3 * MIB, MIB, NULL, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    WEIR_ASSERT(allocated(backing) < 4 * MIB - 512 * KIB);
    WEIR_ASSERT(status_of(edge, 0, 4 * MIB).data && status_of(edge, 0, 4 * MIB).length == 4 * MIB);
    WEIR_ASSERT(node->driver->allocated_size(node) == -ENOTSUP);
    leave(edge);
    del("h");
    remove_device();
}

weir_co_fn DRIVER_TEST(buffered)
{
    transfers("");
}

weir_co_fn DRIVER_TEST(direct)
{
    transfers(",'cache':{'direct':true}");
}

weir_co_fn DRIVER_TEST(size_is_what_it_is)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_edge *edge;

    if (!make_device(4 * MIB, -1))
        return;
    edge = user(add("{'driver':'host_device','node-name':'h','filename':'%s'}", device), R | W | Z, ALL);
    WEIR_ASSERT(weir_node_resize(edge, 5 * MIB, &err) < 0);
    WEIR_ASSERT(!strcmp(weir_error_text(err), "Cannot grow device files"));
    /* The device grows by other means; then the node may follow. */
    WEIR_ASSERT(!truncate(backing, 8 * MIB) && !ioctl(device_fd, LOOP_SET_CAPACITY));
    WEIR_ASSERT(!weir_node_resize(edge, 8 * MIB, NULL) && weir_node_size(edge->node) == 8 * MIB);
    fill(edge, 7 * MIB, 512, 3);
    WEIR_ASSERT(holds(edge, 7 * MIB, 512, 3));
    leave(edge);
    del("h");
    remove_device();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffered),
        cmocka_unit_test(direct),
        cmocka_unit_test(size_is_what_it_is),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}
