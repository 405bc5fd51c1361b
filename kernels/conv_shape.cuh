// The shape of a 2D convolution, for sources that name this file as needed. Maps are NHWC, weights HWIO.
//
// Kernels take it by value as `const __grid_constant__`, so that members are read from constant memory where they are
// used: a plain parameter is copied to registers first, 16 more of them in gemm_backward_weight.
struct ConvShape {
    int batch, height, width, in_channels, out_height, out_width, out_channels;
    int kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
};
