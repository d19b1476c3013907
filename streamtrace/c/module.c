/* The module, `streamtrace.speedups`. */

#include "speedups.h"

#include <stdlib.h>

static struct PyModuleDef speedups = {
    PyModuleDef_HEAD_INIT,
    .m_name = "streamtrace.speedups",
    .m_size = -1,
};

/* Whether the switch says that it is not wanted. */
static int
is_pure_python(void)
{
    static const char *const off[] = {"", "0", "false", "no", "off"};
    const char *pure = getenv("STREAMTRACE_PURE_PYTHON");
    for (size_t i = 0; pure != NULL && i < sizeof off / sizeof *off; i++) {
        if (strcmp(pure, off[i]) == 0) {
            return 0;
        }
    }
    return pure != NULL;
}

PyMODINIT_FUNC
PyInit_speedups(void)
{
    if (is_pure_python()) {
        PyErr_SetString(PyExc_ImportError, "STREAMTRACE_PURE_PYTHON is set");
        return NULL;
    }
    PyObject *module = PyModule_Create(&speedups);
    if (module != NULL
        && (st_add_clock(module) < 0 || st_add_gaps(module) < 0 || st_add_alike(module) < 0
            || st_add_notes(module) < 0 || st_ready_sending() < 0 || st_add_sender(module) < 0
            || st_add_otlp(module) < 0)) {
        Py_CLEAR(module);
    }
    return module;
}
