/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/error.h"
#include "base/alloc.h"
#include "unit.h"
#include <errno.h>
#include <string.h>

static void sets_text_class_and_code(void **state)
{
    WEIR_AUTO_ERROR err = NULL;

    assert_int_equal(weir_error_set(&err, -EINVAL, "size %d of '%s'", 7, "disk"), -EINVAL);
    assert_string_equal(weir_error_text(err), "size 7 of 'disk'");
    assert_string_equal(weir_error_class_name(err), "GenericError");
    assert_int_equal(weir_error_code(err), -EINVAL);
    assert_null(weir_error_hint_text(err));
}

static void nobody_needs_the_text(void **state)
{
    assert_int_equal(weir_error_set(NULL, -EIO, "lost"), -EIO);
    assert_int_equal(weir_error_set_class(NULL, WEIR_ERROR_DEVICE_NOT_FOUND, -ENOENT, "lost"), -ENOENT);
    assert_int_equal(weir_error_set_errno(NULL, -ENOSPC, "lost"), -ENOSPC);
    weir_error_prefix(NULL, "a: ");
    weir_error_hint(NULL, "b");
    weir_error_free(NULL);
}

static void names_every_class(void **state)
{
    static const struct {
        enum weir_error_class error_class;
        const char *name;
    } classes[] = {
        { WEIR_ERROR_GENERIC, "GenericError" },
        { WEIR_ERROR_COMMAND_NOT_FOUND, "CommandNotFound" },
        { WEIR_ERROR_DEVICE_NOT_ACTIVE, "DeviceNotActive" },
        { WEIR_ERROR_DEVICE_NOT_FOUND, "DeviceNotFound" },
    };

    for (size_t i = 0; i < WEIR_ARRAY_SIZE(classes); i++) {
        WEIR_AUTO_ERROR err = NULL;

        assert_int_equal(weir_error_set_class(&err, classes[i].error_class, -ENODEV, "no %s", "node"),
                         -ENODEV);
        assert_string_equal(weir_error_class_name(err), classes[i].name);
        assert_string_equal(weir_error_text(err), "no node");
        assert_int_equal(weir_error_code(err), -ENODEV);
    }
}

static void adds_what_the_system_says(void **state)
{
    WEIR_AUTO_ERROR err = NULL;

    assert_int_equal(weir_error_set_errno(&err, -ENOSPC, "cannot write '%s'", "a.img"), -ENOSPC);
    assert_string_equal(weir_error_text(err), "cannot write 'a.img': No space left on device");
}

static void prefixes_and_hints(void **state)
{
    WEIR_AUTO_ERROR err = NULL;

    weir_error_prefix(&err, "nothing there: ");
    weir_error_hint(&err, "nothing there");
    assert_null(err);
    (void)weir_error_set(&err, -EINVAL, "wrong");
    weir_error_prefix(&err, "node '%s': ", "disk%d");
    weir_error_prefix(&err, "command: ");
    assert_string_equal(weir_error_text(err), "command: node 'disk%d': wrong");
    weir_error_hint(&err, "Try %d.", 1);
    assert_string_equal(weir_error_hint_text(err), "Try 1.");
    weir_error_hint(&err, "Or %d.", 2);
    assert_string_equal(weir_error_hint_text(err), "Try 1.\nOr 2.");
}

static void hands_over(void **state)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_error *local = NULL;

    (void)weir_error_set(&local, -EINVAL, "first");
    weir_error_propagate(&err, local);
    assert_ptr_equal(err, local);
    local = NULL;
    (void)weir_error_set(&local, -EINVAL, "second");
    weir_error_propagate(NULL, local); /* freed: the leak checker looks */
    assert_string_equal(weir_error_text(err), "first");
}

static void allocates(void **state)
{
    unsigned char *zeroed = weir_new_array(unsigned char, 100);
    char *text = weir_strdup_printf("%s-%d", "a", 5);
    char *copy = weir_strdup(text);

    for (int i = 0; i < 100; i++)
        assert_int_equal(zeroed[i], 0);
    assert_string_equal(copy, "a-5");
    free(zeroed);
    free(text);
    free(copy);
    free(weir_alloc(0));
    free(weir_realloc(NULL, 0));
}

static void tries_to_allocate(void **state)
{
    for (size_t alignment = 1; alignment <= 1 << 20; alignment *= 2) {
        void *memory = weir_try_alloc(3, alignment);

        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % alignment, 0);
        memset(memory, 0xff, 3);
        free(memory);
    }
    assert_null(weir_try_alloc(SIZE_MAX / 4, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_text_class_and_code),
        cmocka_unit_test(nobody_needs_the_text),
        cmocka_unit_test(names_every_class),
        cmocka_unit_test(adds_what_the_system_says),
        cmocka_unit_test(prefixes_and_hints),
        cmocka_unit_test(hands_over),
        cmocka_unit_test(allocates),
        cmocka_unit_test(tries_to_allocate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
